"""Every rule of both levels of validation, with the path and the text of its problem."""

from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from jobledger.store.model.errors import InvalidSpec
from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.spec import (
    Constraint,
    InputSource,
    JobSpec,
    Network,
    Port,
    Resources,
    ResultPath,
    SpecConfig,
    Task,
    Timeouts,
    encode_spec,
)
from jobledger.store.spec.validate import encode_valid, problems_of, submission_problems

ENGINE = SpecConfig(type="docker", params={"Image": "busybox"})
GOOD = JobSpec(name="n", namespace="default", type="batch", tasks=(Task(name="main", engine=ENGINE),))
SOURCE = InputSource(source=SpecConfig(type="s3"), alias="a", target="/a")
BYTES: Any = b"1"
WRONG: Any = {"A": 1}
ALSO_WRONG: Any = Task()
RESULT = ResultPath(name="out", path="/out")


def job(**fields: Any) -> JobSpec:
    return replace(GOOD, **fields)


def task(**fields: Any) -> JobSpec:
    return job(tasks=(replace(GOOD.tasks[0], **fields),))


def network(**fields: Any) -> JobSpec:
    return task(network=Network(**fields))


def params(value: Any) -> JobSpec:
    return task(engine=SpecConfig(type="docker", params={"p": value}))


def constraint(**fields: Any) -> JobSpec:
    return job(constraints=(Constraint(**fields),))


def bridge(*ports: Any) -> JobSpec:
    return network(type="Bridge", ports=ports)


SUBMISSION_RULES = [
    (job(type=""), "Type", "missing job type"),
    (job(type="Batch"), "Type", 'invalid job type: "Batch"'),
    (job(count=-1), "Count", "job count must be >= 0"),
    (job(type="daemon", count=2), "Count", "2"),
    (job(type="ops", count=9), "Count", "9"),
    (job(tasks=()), "Tasks", "missing job tasks"),
    (job(name="a\0b"), "Name", "NUL"),
    (job(namespace="a\0b"), "Namespace", "NUL"),
    (job(priority=2**63), "Priority", "64 bits"),
    (job(count=2**63), "Count", "64 bits"),
    (constraint(key=" ", operator="exists"), "Constraints[0].Key", '" "'),
    (constraint(key="k", operator="~"), "Constraints[0].Operator", '"~" is not an operator'),
    (constraint(key="k", operator="In", values=("a",)), "Constraints[0].Operator", '"In"'),
    (constraint(key="k"), "Constraints[0].Operator", "missing operator"),
    (constraint(key="k", operator="in"), "Constraints[0].Values", "needs values"),
    (constraint(key="k", operator="notin"), "Constraints[0].Values", "needs values"),
    (constraint(key="k", operator="!", values=("a",)), "Constraints[0].Values", "takes no values"),
    (constraint(key="k", operator="exists", values=("a",)), "Constraints[0].Values", "takes no values"),
    (constraint(key="k", operator="="), "Constraints[0].Values", "exactly one"),
    (constraint(key="k", operator="gt", values=("1", "2")), "Constraints[0].Values", "exactly one"),
    (task(name=" "), "Tasks[0].Name", '" "'),
    (task(name="a\0"), "Tasks[0].Name", "NUL"),
    (task(engine=SpecConfig(type=" ")), "Tasks[0].Engine.Type", "missing spec type"),
    (task(env={"": "x"}), 'Tasks[0].Env[""]', "no name"),
    (task(env={"foo": "x"}), "Tasks[0].Env.foo", "not all upper case"),
    (task(env={"1A": "x"}), "Tasks[0].Env.1A", "start with a letter"),
    (task(env={"_A": "x"}), "Tasks[0].Env._A", "start with a letter"),
    (task(env={"A-B": "x"}), "Tasks[0].Env.A-B", "only letters, digits and _"),
    (task(env={"BACALHAU_X": "x"}), "Tasks[0].Env.BACALHAU_X", "reserved"),
    (task(env={"A": ""}), "Tasks[0].Env.A", "empty"),
    (task(env={"A\n": "x"}), 'Tasks[0].Env["A\\n"]', "only letters"),
    (task(timeouts=Timeouts(total_timeout=-1)), "Tasks[0].Timeouts.TotalTimeout", "-1"),
    (task(timeouts=Timeouts(queue_timeout=2**63)), "Tasks[0].Timeouts.QueueTimeout", "64 bits"),
    (task(resources=Resources(cpu="lots")), "Tasks[0].Resources.CPU", '"lots"'),
    (task(resources=Resources(cpu="-1")), "Tasks[0].Resources.CPU", "negative"),
    (task(resources=Resources(memory="1zb")), "Tasks[0].Resources.Memory", '"1zb"'),
    (task(resources=Resources(disk="-1")), "Tasks[0].Resources.Disk", '"-1"'),
    (task(resources=Resources(gpu="0.5")), "Tasks[0].Resources.GPU", '"0.5"'),
    (task(input_sources=(replace(SOURCE, target=" "),)), "Tasks[0].InputSources[0].Target", "blank"),
    (task(input_sources=(InputSource(target="/a"),)), "Tasks[0].InputSources[0].Source.Type", "missing spec"),
    (task(input_sources=(SOURCE, replace(SOURCE, target="/b"))), "Tasks[0].InputSources[1].Alias", '"a"'),
    (task(input_sources=(SOURCE, replace(SOURCE, alias="b"))), "Tasks[0].InputSources[1].Target", '"/a"'),
    (task(publisher=ENGINE, result_paths=(ResultPath(path="/a"),)), "Tasks[0].ResultPaths[0].Name", "blank"),
    (task(publisher=ENGINE, result_paths=(ResultPath(name="a"),)), "Tasks[0].ResultPaths[0].Path", "blank"),
    (
        task(publisher=ENGINE, result_paths=(ResultPath(name="a", path="out"),)),
        "Tasks[0].ResultPaths[0].Path",
        "not an absolute",
    ),
    (
        task(publisher=ENGINE, result_paths=(RESULT, replace(RESULT, path="/b"))),
        "Tasks[0].ResultPaths[1].Name",
        '"out"',
    ),
    (
        task(publisher=ENGINE, result_paths=(RESULT, replace(RESULT, name="b"))),
        "Tasks[0].ResultPaths[1].Path",
        '"/out"',
    ),
    (network(type="Mesh"), "Tasks[0].Network.Type", '"Mesh"'),
    (network(type="Full", domains=("a.com",)), "Tasks[0].Network.Domains", "only for a network of type HTTP"),
    (network(type="HTTP", domains=("localhost",)), "Tasks[0].Network.Domains[0]", '"localhost"'),
    (network(type="HTTP", domains=("10.0.0.0/8",)), "Tasks[0].Network.Domains[0]", '"10.0.0.0/8"'),
    (network(type="HTTP", ports=(Port(name="a"),)), "Tasks[0].Network.Ports", "Host or Bridge"),
    (bridge(Port(name="a-b")), "Tasks[0].Network.Ports[0].Name", '"a-b"'),
    (bridge(Port()), "Tasks[0].Network.Ports[0].Name", '""'),
    (bridge(Port(name="a", static=80)), "Tasks[0].Network.Ports[0].Static", "80"),
    (bridge(Port(name="a", static=65_536)), "Tasks[0].Network.Ports[0].Static", "65536"),
    (bridge(Port(name="a", target=-1)), "Tasks[0].Network.Ports[0].Target", "-1"),
    (bridge(Port(name="a", target=65_536)), "Tasks[0].Network.Ports[0].Target", "65536"),
    (bridge(Port(name="a", host_network="lan")), "Tasks[0].Network.Ports[0].HostNetwork", '"lan"'),
    (bridge(Port(name="a"), Port(name="a")), "Tasks[0].Network.Ports[1].Name", "already used"),
    (
        bridge(Port(name="a", static=2000), Port(name="b", static=2000)),
        "Tasks[0].Network.Ports[1].Static",
        "2000",
    ),
    (bridge(Port(name="a", target=80), Port(name="b", target=80)), "Tasks[0].Network.Ports[1].Target", "80"),
    (network(type="Host", ports=(Port(name="a", target=80),)), "Tasks[0].Network.Ports[0].Target", "80"),
    (params(float("nan")), "Tasks[0].Engine.Params.p", "nan"),
    (params(float("inf")), "Tasks[0].Engine.Params.p", "inf"),
    (params([1, 2**64]), "Tasks[0].Engine.Params.p[1]", "18446744073709551616"),
    (params({"d": date(2024, 1, 1)}), "Tasks[0].Engine.Params.p.d", "date"),
    (params({1: 2}), "Tasks[0].Engine.Params.p", "the key 1 is not a string"),
    (params({1, 2}), "Tasks[0].Engine.Params.p", "set"),
    (params(b"x"), "Tasks[0].Engine.Params.p", "bytes"),
    (params("\ud800"), "Tasks[0].Engine.Params.p", "surrogate"),
    (params({"\ud800": 1}), "Tasks[0].Engine.Params.p", "surrogate"),
    (job(labels={"a": "\udfff"}), "Labels.a", "surrogate"),
    (job(name="\udfff"), "Name", "surrogate"),
]

STORE_RULES = [
    (job(name=""), "Name", "missing job name"),
    (job(name=" "), "Name", "missing job name"),
    (job(namespace=" "), "Namespace", "job must be in a namespace"),
    (task(result_paths=(RESULT,)), "Tasks[0].Publisher", "publisher must be set if result paths are set"),
    (
        task(timeouts=Timeouts(execution_timeout=3, queue_timeout=3, total_timeout=5)),
        "Tasks[0].Timeouts.TotalTimeout",
        "6 s",
    ),
]

VALID = [
    GOOD,
    job(count=0),
    job(type="daemon", count=1),
    job(type="ops"),
    constraint(key="k", operator="notin", values=("a", "b")),
    constraint(key="k", operator="exists"),
    constraint(key="k", operator="!=", values=("",)),
    task(env={"A_1": "x", "Ä": "x"}),
    task(publisher=ENGINE, result_paths=(RESULT,)),
    task(input_sources=(replace(SOURCE, alias=""), replace(SOURCE, alias="", target="/b"))),
    task(timeouts=Timeouts(execution_timeout=3, queue_timeout=3)),
    task(timeouts=Timeouts(execution_timeout=3, queue_timeout=3, total_timeout=6)),
    network(type="HTTP", domains=("example.com", ".Example.com", "192.0.2.1", "::1")),
    network(type="Host", ports=(Port(name="a", static=1024), Port(name="b"))),
    bridge(Port(name="a", target=80, host_network="127.0.0.1"), Port(name="b")),
    params({"a": [None, True, -(2**63), 2**64 - 1, 1.5, "\0", ""]}),
]


@pytest.mark.parametrize(("spec", "path", "text"), SUBMISSION_RULES)
def test_a_broken_submission_rule_is_reported_once_with_its_path(spec: JobSpec, path: str, text: str) -> None:
    """Both levels refuse it with one problem, with path, value and remedy."""
    for problems in (submission_problems(spec), problems_of(spec)):
        assert [problem.path for problem in problems] == [path]
        assert text in problems[0].message
        assert problems[0].remedy


@pytest.mark.parametrize(("spec", "path", "text"), STORE_RULES)
def test_a_broken_store_rule_is_reported_by_the_second_level_only(
    spec: JobSpec, path: str, text: str
) -> None:
    """The level of the API accepts it, that of the store refuses it."""
    assert submission_problems(spec) == []
    assert [problem.path for problem in problems_of(spec)] == [path]
    assert text in problems_of(spec)[0].message


@pytest.mark.parametrize("spec", VALID)
def test_a_spec_that_breaks_no_rule_is_valid(spec: JobSpec) -> None:
    """Specs at the edge of the rules have no problems, before and after normalization."""
    assert submission_problems(spec) == []
    assert problems_of(normalize(spec)) == []


@pytest.mark.parametrize("spec", [spec for spec, _, _ in SUBMISSION_RULES + STORE_RULES])
def test_normalization_never_hides_a_problem(spec: JobSpec) -> None:
    """A spec that is refused is also refused after normalization, with the same paths."""
    before = [problem.path for problem in problems_of(spec)]
    if spec.name:
        assert [problem.path for problem in problems_of(normalize(spec))] == before


def test_all_problems_are_reported_in_document_order() -> None:
    """Problems of every part are reported together, from the top of the document to its end."""
    spec = job(
        name="",
        type="x",
        count=-1,
        constraints=(Constraint(key="", operator="?"),),
        tasks=(Task(env={"a": ""}, resources=Resources(cpu="x")),),
    )
    assert [problem.path for problem in problems_of(spec)] == [
        "Name",
        "Type",
        "Count",
        "Constraints[0].Key",
        "Constraints[0].Operator",
        "Tasks[0].Name",
        "Tasks[0].Engine.Type",
        "Tasks[0].Env.a",
        "Tasks[0].Env.a",
        "Tasks[0].Resources.CPU",
    ]


def test_a_value_that_is_not_json_does_not_hide_broken_rules() -> None:
    """A NaN in Params and a missing type are reported together."""
    assert {each.path for each in submission_problems(replace(params(float("nan")), type=""))} == {
        "Tasks[0].Engine.Params.p",
        "Type",
    }


def test_a_value_that_cannot_be_encoded_is_reported_once() -> None:
    """A name of half surrogates that is also too long is one problem."""
    assert [each.path for each in problems_of(job(name="\ud800" * 2_000))] == ["Name"]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (job(name=5), "Name"),
        (job(count="1"), "Count"),
        (job(tasks=None), "Tasks"),
        (job(tasks=(Task(name="x", env=WRONG),)), "Tasks[0].Env.A"),
        (job(tasks=(Task(name="x", engine=WRONG),)), "Tasks[0].Engine"),
        (job(tasks=(Task(name="x", engine=ALSO_WRONG),)), "Tasks[0].Engine"),
        (job(tasks=Task()), "Tasks"),
        (job(type=date(2024, 1, 1)), "Type"),
        (job(labels=[]), "Labels"),
        (job(priority=True), "Priority"),
        (job(name=5, namespace="\ud800"), "Namespace"),
        (job(name=object()), "Name"),
        (job(type="daemon", count=True), "Count"),
        (job(type="daemon", count=1.0), "Count"),
        (job(constraints="abc"), "Constraints"),
        (job(constraints={}), "Constraints"),
        (network(type="HTTP", domains="example.com"), "Tasks[0].Network.Domains"),
        (network(type="HTTP", domains={"example.com": 1}), "Tasks[0].Network.Domains"),
        (network(ports="abc"), "Tasks[0].Network.Ports"),
        (task(resources=SimpleNamespace(cpu="1", memory="", disk="", gpu="")), "Tasks[0].Resources"),
        (task(resources=Resources(cpu=BYTES)), "Tasks[0].Resources.CPU"),
    ],
)
def test_a_spec_built_with_wrong_types_is_refused_and_raises_nothing(spec: JobSpec, path: str) -> None:
    """Msgspec does not check constructors; validation does, and normalization must not hide it."""
    assert path in [problem.path for problem in problems_of(spec)]
    with pytest.raises(InvalidSpec):
        encode_valid(spec)


def test_lists_are_accepted_for_tuples() -> None:
    """A spec built in Python with lists is valid, and is the same job."""
    listed = job(tasks=[replace(GOOD.tasks[0], input_sources=[SOURCE])], constraints=[])
    assert problems_of(listed) == []
    assert encode_spec(normalize(listed)) == encode_spec(normalize(task(input_sources=(SOURCE,))))


def test_a_value_that_contains_itself_is_refused() -> None:
    """A cycle in Params ends at the depth limit."""
    loop: list[object] = []
    loop.append(loop)
    assert "nested deeper" in submission_problems(params(loop))[0].message


def test_long_values_are_shortened_in_messages() -> None:
    """A value of a kilobyte does not make a message of a kilobyte, and no message has a line break."""
    (problem,) = submission_problems(job(type="x\n" * 1000))
    assert len(str(problem)) < 250
    assert "\n" not in str(problem)
