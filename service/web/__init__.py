"""The web UI below `/ui/`: pages rendered on the server from the same operations as the HTTP API.

    request ─► api/middleware ─► api/app.Router ─► a view function ─► calls.call("listJobs", …) ─► api handler
               (session cookie,   (same tree)      (one module        (the caller's rights,
                Host, limits)                       per page)          If-Match, limits: as over HTTP)
                                                        │
                                                        └─► site.render(request, "jobs.html", …) ─► HTML

A page has one module here, one template in `templates/`, and one test module in `tests/service/web/`.
To add a page:

1. Add its paths to `service/wire/paths.py` (`UI_…`).
2. Write a module with view functions of less than 40 lines: `@page("GET", paths.UI_X, "uiX", nav="X")`. A
   view gets the `Request`; it returns `render(request, "x.html", …)`, or `see_other(path)` after a POST.
3. Get all data, and make all changes, with `call(request, "<id of an API operation>", …)`. What the API lacks
   is added to the API first. Errors that an operation raises become pages by themselves; a view catches only
   those that it shows next to a form.
4. A page about other things than jobs updates live if its template extends `frame`, has `poll_status`, and
   has what changes in a `{% block live %}` inside of `data-live="part"`: a script fetches that block at the
   page's own URL. Times are shown with the filters `clock` and `clock_short`, in the URL's zone (`zones`).
5. List the module in `pages.py`. The routes, the navigation and the browser tests derive from that list.

Rules that tests enforce: no inline script or style and no `style=` attribute (the Content-Security-Policy has
no `unsafe-…`); every state of a page in its URL (forms that read are GET); POST answers 303; everything works
without JavaScript; attributes of htmx are written `data-hx-…`, so that the HTML is valid. Parts that pages
share are macros, one file per component in `templates/macros/`. Scripts are ES modules in `static/`, one per
behavior, started by `app.js`; libraries are in `static/vendor/`, pinned by its `manifest.json`
(`make vendor`).
"""
