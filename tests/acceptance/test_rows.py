"""Every row of Bacalhau's own store, endpoint and API tests: where it is re-created, or why it can't be."""

import ast
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent

EXECUTIONS: Final = "executions are the orchestrator's: a store of jobs has none, and those lists are empty"
STORE: Final = "inside of that store (its transactions, indexes, events): nothing that an API shows"

# row: the tests of this folder, or a reason
ROWS: Final[dict[str, tuple[str, ...] | str]] = {
    # history
    "UnfilteredJobHistory": ("test_unfiltered_job_history",),
    "JobHistoryOrdering": ("test_job_history_ordering",),
    "JobHistoryOffset": (
        "test_job_history_offset_of_a_live_job",
        "test_job_history_offset_of_an_ended_job",
    ),
    "JobHistoryPagination": ("test_job_history_pagination",),
    "JobHistoryPagination, by execution": EXECUTIONS,
    "TimeFilteredJobHistory": ("test_time_filtered_job_history",),
    "ExecutionFilteredJobHistory": EXECUTIONS,
    "LevelFilteredJobHistory": ("test_level_filtered_job_history",),
    # listing
    "SearchJobs": ("test_search_jobs", "test_paging_goes_on_after_the_page_before"),
    "InProgressJobs": ("test_search_jobs",),
    # executions
    "CreateExecution": EXECUTIONS,
    "GetExecutions": EXECUTIONS,
    # jobs, ids, versions, names
    "DeleteJob": "nothing is ever deleted here: retention is a matter of the stream",
    "GetJob": ("test_get_job",),
    "ShortIDs": ("test_short_ids",),
    "GetJobVersion": ("test_get_job_version",),
    "GetJobVersionWithShortID": ("test_get_job_version_with_short_id",),
    "GetJobVersionWithMultipleVersions": ("test_get_job_version_with_multiple_versions",),
    "GetJobVersionWithInvalidVersion": ("test_get_job_version_with_invalid_version",),
    "GetJobVersions": ("test_get_job_versions", "test_get_job_versions_multiple_updates"),
    "GetLatestJobVersion": ("test_get_job_versions_multiple_updates",),
    "GetJobByIDOrName": (
        "test_get_job_by_id_or_name",
        "test_an_id_works_with_any_namespace",
        "test_a_name_wins_over_an_id",
    ),
    "GetJobByName": (
        "test_get_job_by_name",
        "test_names_with_special_characters",
        "test_names_are_case_sensitive",
    ),
    "GetJobIDByJobName": ("test_get_job_by_name", "test_an_empty_name_is_no_job"),
    "JobExistsByName": ("test_get_job_by_name", "test_an_empty_name_is_no_job"),
    # updates
    "UpdateJob": ("test_update_job",),
    "UpdateJobWithoutID": ("test_update_job_without_an_id",),
    "UpdateJobNonExistent": ("test_update_job_that_does_not_exist",),
    "UpdateJobCannotChangeName, Namespace": ("test_update_cannot_change_name_or_namespace",),
    "UpdateJobVersionHistory": ("test_version_history",),
    "UpdateJobMultipleUpdates": ("test_multiple_updates",),
    "UpdateJobConstraints, Tasks": ("test_constraints_and_tasks_are_replaced",),
    "UpdateJobStatePendingReset": ("test_every_state_is_left_by_an_update",),
    "UpdateJobInvalidData": ("test_invalid_data",),
    "JobNameIndexInconsistency": "an id is made of namespace and name here: no index can be wrong",
    # events, evaluations, transactions
    "Events": STORE,
    "Evaluations": "nothing is scheduled here: EvaluationID is the id of the event",
    "Transactions (4)": STORE,
    "ReadDuringWrite": STORE,
    "BeginMultiple": STORE,
    # other suites
    "boltdb/database_test, index_test, utils_test": STORE,
    "endpoint_test Rerun": (
        "test_rerunnable_table",
        "test_rerun_of_what_is_not_there",
        "test_the_whole_story_of_an_update",
    ),
    "endpoint_test Rerun, failures inside": STORE,
    "endpoint_test Submit": ("test_update_job", "test_no_change", "test_force"),
    "endpoint_test Submit, failures inside": STORE,
    "models/job_test": (
        "test_count",
        "test_validation",
        "test_sanitize",
        "test_rerunnable_table",
        "test_terminal_states_are_final",
    ),
    "models/task_test, timeout_test, network_test": "rules of a spec: store/spec/test_spec_validation.py",
    "models/paging_token_test": ("test_the_token_carries_the_order", "test_a_wrong_token_is_refused"),
    "models/event_test": "errors of executions: " + EXECUTIONS,
    "publicapi/test/job_test": ("test_put_get_list_history_executions_results_stop",),
    "publicapi/middleware/error_handler_test": ("test_errors_have_one_shape",),
    "publicapi/middleware/version_test": "no client is too old: every request is judged by what it asks",
    "orchestrator/housekeeping_test": "timeouts are the orchestrator's to watch",
    "test_integration/19_jobs_update": (
        "test_the_whole_story_of_an_update",
        "test_no_change",
        "test_diff",
    ),
    "test_integration/19_jobs_update, executions": EXECUTIONS,
}


def names_of_tests() -> set[str]:
    """The names of all tests in this folder."""
    return {
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_re_created_or_has_a_reason(row: str) -> None:
    """A row names tests that exist, or says why there is none."""
    told = ROWS[row]
    if isinstance(told, str):
        assert told
    else:
        assert set(told) <= names_of_tests()
