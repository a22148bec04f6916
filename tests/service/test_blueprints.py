"""The catalogue through the API: the same as the command has it."""

from dure.client.blueprints import catalogue


def test_the_catalogue(shared):
    client = shared.client("user")
    listed = client.get("/api/v1/blueprints").json()
    assert [row["name"] for row in listed] == [entry.about.name for entry in catalogue()]
    assert set(listed[0]) == {"name", "field", "stages", "metric", "expected_cpu_s", "extra", "on_fleet"}
    for row in listed:
        found = client.get(f"/api/v1/blueprints/{row['name']}").json()
        assert found["about"]["name"] == row["name"]
        assert (found["job"] is None) != (found["pipeline"] is None)
        work = found["job"] or found["pipeline"]
        assert (list(work["jobs"]) if found["pipeline"] else [work["name"]]) == row["stages"]


def test_one_that_is_not_there_and_nobody(shared):
    answer = shared.client("user").get("/api/v1/blueprints/none")
    assert (answer.status_code, answer.json()["detail"]) == (404, "no blueprint 'none'")
    assert shared.client("nobody").get("/api/v1/blueprints").status_code == 401
