"""The samples of `/metrics`."""

from prometheus_client.parser import text_string_to_metric_families

URL = "http://127.0.0.1"


def figures(text: str) -> dict[str, float]:
    """Every sample, by name and labels as they are written."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
