"""Bodies of writes: a key is there once, at every depth, for every route."""

from pathlib import Path

from tests.support.api import PREFIX, job_body, running_api

JOB = '"Job":{"Name":"etl","Type":"batch","Tasks":[{"Name":"main","Engine":{"Type":"noop"}}]}'
BATCH, NOOP = '"Type":"batch"', '{"Type":"noop"}'
TWICE = [
    ("PUT", "/jobs", f"{{{JOB},{JOB}}}", "Job"),
    ("PUT", "/jobs", f"{{{JOB},{JOB.replace('Job', 'job', 1)}}}", "Job"),
    ("PUT", "/jobs?strict=true", f"{{{JOB.replace('etl', 'a')},{JOB}}}", "Job"),
    ("PUT", "/jobs", "{" + JOB.replace(BATCH, '"Type":"batch","Type":"ops"') + "}", "Type"),
    (
        "PUT",
        "/jobs",
        "{" + JOB.replace(BATCH, '"Meta":{"a":"1","b":"2","a":"3"},"Type":"ops"') + "}",
        "a",
    ),
    (
        "PUT",
        "/jobs",
        "{" + JOB.replace(NOOP, '{"Type":"noop","Params":{"x":[{"y":1,"y":1}]}}') + "}",
        "y",
    ),
    ("PUT", "/jobs", "{" + JOB + ',"Reason":"a","reason":"a"}', "Reason"),
    ("PUT", "/jobs/etl", "{" + JOB + ',"Force":false,"FORCE":false}', "Force"),
    ("PUT", "/jobs/etl/state", '{"StateType":"Running","StateType":"Failed"}', "StateType"),
    ("PUT", "/jobs/etl/state", '{"StateType":"Running","Details":{"a":"1","a":"2"}}', "a"),
    ("PUT", "/jobs/etl/rerun", '{"Reason":"a","Reason":"b"}', "Reason"),
    ("PUT", "/jobs/etl/revert", '{"JobVersion":1,"jobversion":1}', "JobVersion"),
    ("PUT", "/jobs/etl/tags/x", '{"Version":1,"Version":1}', "Version"),
    ("DELETE", "/jobs/etl", '{"Reason":"a","Reason":"b"}', "Reason"),
    ("POST", "/api/v1/webhooks", '{"Name":"a","URL":"https://x.example/","url":"https://y.example/"}', "URL"),
]


async def test_a_key_that_is_there_twice_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """Decoders keep one value and drop the other silently; here it is 400, on every route, at every depth."""
    async with running_api(tmp_path / "data") as (service, client):
        assert (await client.put("/jobs", json=job_body("etl"))).status_code == 200
        before = (await service.log.info()).last_sequence
        for method, path, body, key in TWICE:
            url = path if path.startswith("/api") else f"{PREFIX}{path}"
            answer = await client.request(
                method, f"http://127.0.0.1{url}", content=body, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 400, (method, path, body, answer.text)
            assert f'"{key}"' in answer.json()["Message"], answer.text
            assert "twice" in answer.json()["Message"] or "same field" in answer.text
        assert (await service.log.info()).last_sequence == before
