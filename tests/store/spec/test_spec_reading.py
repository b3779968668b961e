"""Text and values become a spec, or are refused with all reasons; nothing is dropped silently."""

from typing import Any

import pytest
from msgspec import UNSET

from jobledger.store.model.errors import InvalidSpec, Problem
from jobledger.store.model.limits import SPEC_MAX_PROBLEMS
from jobledger.store.spec.reader import load_spec, read_spec

TASK = {"Name": "main", "Engine": {"Type": "noop"}}
JOB = {"Type": "batch", "Tasks": [TASK]}
YAML = "Type: batch\nTasks:\n  - Name: main\n    Engine: {Type: noop}\n"


def job(**fields: Any) -> dict[Any, Any]:
    return {**JOB, **fields}


def with_task(**fields: Any) -> dict[Any, Any]:
    return job(Tasks=[{**TASK, **fields}])


def refusal(value: Any, *, strict: bool = True) -> tuple[Problem, ...]:
    with pytest.raises(InvalidSpec) as caught:
        read_spec(value, strict=strict)
    return caught.value.problems


def test_keys_are_read_without_case() -> None:
    """Lower-case, upper-case and PascalCase keys are the same fields."""
    lower = {"type": "batch", "tasks": [{"name": "main", "engine": {"type": "noop", "params": {"image": 1}}}]}
    upper = {"TYPE": "batch", "TASKS": [{"NAME": "main", "ENGINE": {"TYPE": "noop", "PARAMS": {"image": 1}}}]}
    assert read_spec(lower, strict=True) == read_spec(upper, strict=True)
    assert read_spec(lower, strict=True).spec.tasks[0].engine.params == {"image": 1}


def test_the_same_key_in_two_cases_is_refused() -> None:
    """No spelling wins silently."""
    (problem,) = refusal(with_task(name="other"))
    assert problem.path == "Tasks[0].name"
    assert '"Name"' in problem.message


def test_null_is_absent() -> None:
    """A null in any field is the same as a missing field."""
    spec = read_spec(
        job(Count=None, Labels=None, Name=None, Priority=None, Constraints=None), strict=True
    ).spec
    assert spec == read_spec(JOB, strict=True).spec
    assert spec.count is UNSET
    assert read_spec(with_task(Resources=None, Env=None, Network=None), strict=True).spec == spec


@pytest.mark.parametrize(
    ("value", "path", "message", "remedy"),
    [
        (job(Name=5), "Name", "expected a string, got 5", "quotes"),
        (job(Name=1 << 20_000), "Name", "an integer of 20001 bits", "quotes"),
        (job(Type=True), "Type", "expected a string, got true", "quotes"),
        (job(Count="3"), "Count", 'expected a whole number, got "3"', "remove the quotes"),
        (job(Count=1.5), "Count", "expected a whole number, got 1.5", "number"),
        (job(Priority=True), "Priority", "expected a whole number, got true", "number"),
        (job(Labels=["a"]), "Labels", "expected an object, got a list", "keys"),
        (job(Labels={"a": 1}), "Labels.a", "expected a string, got 1", "quotes"),
        (job(Meta={"x y": None}), 'Meta["x y"]', "expected a string, got null", "give it a value"),
        (job(Labels={1: "a"}), "Labels", "the key 1 is not a string", "quotes"),
        (job(Tasks={}), "Tasks", "expected a list, got an object", "dash"),
        (job(Tasks=["x"]), "Tasks[0]", 'expected an object, got "x"', "fields"),
        (job(Tasks=[None]), "Tasks[0]", "expected an object, got null", "fields"),
        (with_task(Engine="docker"), "Tasks[0].Engine", 'expected an object, got "docker"', "fields"),
        (with_task(Env={"A": False}), "Tasks[0].Env.A", "expected a string, got false", "quotes"),
        (
            with_task(Engine={"Type": "x", "Params": []}),
            "Tasks[0].Engine.Params",
            "expected an object",
            "keys",
        ),
        (
            with_task(Resources={"CPU": True}),
            "Tasks[0].Resources.CPU",
            "expected a string, got true",
            "quotes",
        ),
        (with_task(Network={"Type": "Mesh"}), "Tasks[0].Network.Type", '"Mesh"', "Default, None, Host"),
        (with_task(Network={"Type": 3, "Domains": ["a.com"]}), "Tasks[0].Network.Type", "got 3", "quotes"),
        ([], "", "a list", "Type"),
        (None, "", "null", "Type"),
    ],
)
def test_a_wrong_type_is_reported_with_value_and_remedy(
    value: Any, path: str, message: str, remedy: str
) -> None:
    """One problem, without others that follow from it, such as a missing type."""
    (problem,) = refusal(value)
    assert problem.path == path
    assert message in problem.message
    assert remedy in problem.remedy
    assert refusal(value, strict=False) == (problem,)


def test_numbers_are_accepted_where_resources_are_text() -> None:
    """`CPU: 1` means "1"."""
    spec = read_spec(with_task(Resources={"CPU": 1, "gpu": 2, "Memory": 0.5}), strict=True).spec
    resources = spec.tasks[0].resources
    assert (resources.cpu, resources.gpu, resources.memory) == ("1", "2", "0.5")


@pytest.mark.parametrize("text", ["None", "none", "NONE"])
def test_network_types_are_read_without_case_and_written_with_it(text: str) -> None:
    """`Network: {Type: none}` is the type None."""
    assert read_spec(with_task(Network={"Type": text}), strict=True).spec.tasks[0].network.type == "None"


def test_a_yaml_none_is_a_network_type_and_a_yaml_null_is_absent() -> None:
    """YAML's null is `~` or `null`; the unquoted word None is text."""
    for word, expected in (("None", "None"), ("~", "Default"), ("null", "Default")):
        text = f"{YAML}    Network: {{Type: {word}}}\n"
        assert load_spec(text).spec.tasks[0].network.type == expected


DROPPED: list[tuple[dict[Any, Any], str, str]] = [
    (job(Foo=1), "Foo", "remove it; the fields are Name, Namespace"),
    (job(constraits=[]), "constraits", "did you mean `Constraints`?"),
    (job(annotations={}), "annotations", "did you mean `Labels` or `Meta`?"),
    (with_task(ResourcesConfig={}), "Tasks[0].ResourcesConfig", "did you mean `Resources`?"),
    (with_task(outputs=[]), "Tasks[0].outputs", "did you mean `ResultPaths`?"),
    (
        with_task(Engine={"Type": "docker", "Image": "x"}),
        "Tasks[0].Engine.Image",
        "did you mean `Params.Image`?",
    ),
    (
        with_task(Network={"Type": "Bridge", "Ports": [{"Name": "a", "Statik": 1}]}),
        "Tasks[0].Network.Ports[0].Statik",
        "`Static`",
    ),
    (job(ID="j-1"), "ID", "set by Jobledger; remove it"),
    (job(state={"StateType": "Running"}), "state", "set by Jobledger; remove it"),
    (job(Meta={"bacalhau.org/x": "1", "mine": "2"}), 'Meta["bacalhau.org/x"]', "remove it"),
    (job(Tasks=[TASK, {**TASK, "Name": "two"}]), "Tasks[1]", "only the first is kept"),
    ({**JOB, 7: 1}, "[7]", "remove it"),
]


@pytest.mark.parametrize(("value", "path", "remedy"), DROPPED)
def test_what_would_be_dropped_is_a_problem_when_strict(value: Any, path: str, remedy: str) -> None:
    """Strict mode refuses what it can't keep, with path and nearest field."""
    (problem,) = refusal(value)
    assert problem.path == path
    assert remedy in problem.remedy


@pytest.mark.parametrize(("value", "path", "remedy"), DROPPED)
def test_what_is_dropped_is_a_warning_when_lenient(value: Any, path: str, remedy: str) -> None:
    """Lenient mode keeps the rest and reports what it dropped."""
    read = read_spec(value, strict=False)
    (warning,) = read.warnings
    assert warning.path == path
    assert remedy in warning.remedy
    assert len(read.spec.tasks) == 1
    assert "bacalhau.org/x" not in read.spec.meta


def test_maps_of_the_user_accept_any_key() -> None:
    """Params, Env, Meta and Labels have no unknown keys."""
    own = {"anything": "x", "Name": "y", "name": "z"}
    read = read_spec(job(Meta=own, Labels=own, Tasks=[{**TASK, "Meta": own, "Env": own}]), strict=True)
    assert read.spec.meta == read.spec.labels == read.spec.tasks[0].env == own
    assert read.warnings == ()


def test_zero_values_of_clients_give_no_warnings() -> None:
    """A client that sends the empty fields of its Job class gets no warning."""
    value = job(ID="", Version=0, Revision=0, CreateTime=0, ModifyTime=None, State={})
    assert read_spec(value, strict=False).warnings == ()


def test_wrong_types_and_broken_rules_are_reported_together() -> None:
    """A wrong type, an unknown key and a broken rule are in one error."""
    problems = refusal(job(Name=5, Count=-1, Tasks=[{"Name": "", "Engine": {}, "Foo": 1}]))
    assert {each.path for each in problems} == {
        "Name",
        "Tasks[0].Foo",
        "Count",
        "Tasks[0].Name",
        "Tasks[0].Engine.Type",
    }


def test_a_misspelled_field_is_not_also_missing() -> None:
    """`Typ` is reported as a misspelling, and not also as a missing Type."""
    assert [each.path for each in refusal({"Typ": "batch", "Tasks": [TASK]})] == ["Typ"]


def test_load_applies_both_levels_of_rules() -> None:
    """A spec that loads is one that the ledger accepts, so the rules of the store are applied too."""
    with pytest.raises(InvalidSpec, match="publisher must be set if result paths are set"):
        load_spec(YAML + "    ResultPaths: [{Name: a, Path: /a}]\n")


def test_problems_are_bounded_and_the_rest_is_counted() -> None:
    """At most SPEC_MAX_PROBLEMS are reported; the last one counts the rest."""
    problems = refusal(job(**{f"Foo{index}": 1 for index in range(SPEC_MAX_PROBLEMS + 50)}))
    assert len(problems) == SPEC_MAX_PROBLEMS
    assert "51 more" in problems[-1].message
    assert len(refusal(job(**{f"Foo{index}": 1 for index in range(SPEC_MAX_PROBLEMS)}))) == SPEC_MAX_PROBLEMS


@pytest.mark.parametrize(
    "text",
    [
        "Name: {{ .name }}\n" + YAML,
        YAML + "{{ if .x }}\n",
        YAML + "    Foo: '{{ .x }}'\n",
        YAML + "    Env: {a: '{{x}}'}",
    ],
)
def test_an_unrendered_template_is_reported_first(text: str) -> None:
    """The first problem of a text with {{ }} is that it is a template."""
    with pytest.raises(InvalidSpec) as caught:
        load_spec(text)
    assert "Go template" in caught.value.problems[0].message
    assert len(caught.value.problems) > 1
    assert len([each for each in caught.value.problems if "Go template" in each.message]) == 1


def test_a_valid_text_with_braces_gets_a_warning() -> None:
    """`docker ps --format '{{.ID}}'` is a valid setting: it is taken literally, with a warning."""
    read = load_spec(YAML + "    Env: {FORMAT: '{{.ID}}'}\n")
    assert read.spec.tasks[0].env == {"FORMAT": "{{.ID}}"}
    (warning,) = read.warnings
    assert "taken literally" in warning.message
