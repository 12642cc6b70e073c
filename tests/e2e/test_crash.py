"""Servers that are killed, and what the next one makes of what they leave."""

import time
from datetime import timedelta

import pytest
from google.longrunning import operations_pb2
from outlastapi.imaging.v1 import imaging_pb2
from outlastapi.script.v1 import script_pb2
from PIL import Image

SCRIPT = ("--script", "--lease", "1s")
IMAGING = ("--service", "outlast_imaging:ImagingService", "--lease", "1s")
OPERATIONS, STEPS = 5, 8


def lines(path):
    """Return what the steps that had this witness wrote down."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def durable(key, witness, duration):
    return {"durable": {"key": key, "witness": witness.name, "duration": duration}}


def as_bytes(operation):
    return operation.SerializeToString(deterministic=True)


def test_an_operation_survives_that_its_server_is_killed_right_after_the_reply(serve):
    arguments = ("--script", "--lease", "300ms")
    names = []
    server = serve(*arguments)
    for turn in range(20):
        names.append(server.run_script({"answer": {"text": f"turn {turn}"}}))
        server.kill()
        server = serve(*arguments)
        assert server.get(names[-1]).name == names[-1]

    answers = []
    for name in names:
        answer = script_pb2.RunScriptResponse()
        assert server.result(name).response.Unpack(answer)
        answers.append(answer.text)

    assert answers == [f"turn {turn}" for turn in range(20)]


def test_after_a_kill_every_operation_finishes_and_no_recorded_step_runs_again(
    serve, folder, eventually
):
    def witness(operation, step):
        return folder / f"operation {operation}, step {step}"

    duration = timedelta(milliseconds=100)
    server = serve(*SCRIPT)
    names = [
        server.run_script(
            *(durable(f"{step}", witness(operation, step), duration) for step in range(STEPS))
        )
        for operation in range(OPERATIONS)
    ]
    eventually(lambda: all(witness(operation, 2).exists() for operation in range(OPERATIONS)))
    server.kill()
    # That a step has begun tells that the one before it was recorded.
    recorded = {
        (operation, step)
        for operation in range(OPERATIONS)
        for step in range(STEPS)
        if witness(operation, step + 1).exists()
    }
    server = serve(*SCRIPT)

    assert all(server.result(name).HasField("response") for name in names)
    for operation, name in enumerate(names):
        for step in range(STEPS):
            begun = lines(witness(operation, step))
            if (operation, step) in recorded:
                assert begun == [f"{name} 1"]
            else:
                assert begun in ([f"{name} 1"], [f"{name} 1", f"{name} 1"])


def test_a_result_stays_the_same_byte_for_byte_whatever_happens_to_the_server(serve):
    server = serve(*SCRIPT)
    names = [
        server.run_script({"answer": {"text": "kept", "size": 10_000}}),
        server.run_script({"progress": {"completed": 1, "total": 3}}),
        server.run_script({"fail": {"code": 9, "message": "told to"}}),
        server.run_script({"sleep": timedelta(hours=1)}),
    ]
    request = operations_pb2.CancelOperationRequest(name=names[-1])
    server.operations.CancelOperation(request, timeout=30)
    done = [as_bytes(server.result(name)) for name in names]

    server.kill()
    server = serve(*SCRIPT)
    after_kill = [as_bytes(server.get(name)) for name in names]
    server.terminate()
    assert server.process.wait(30) == 0
    server = serve(*SCRIPT)
    after_stop = [as_bytes(server.get(name)) for name in names]

    assert after_kill == done
    assert after_stop == done


def test_an_operation_of_a_dead_server_runs_again_within_the_lease_and_a_second(
    serve, folder, eventually
):
    lease = 2
    witnesses = [folder / f"witness {number}" for number in range(3)]
    server = serve("--script", "--lease", f"{lease}s")
    for witness in witnesses:
        server.run_script(durable("endless", witness, timedelta(hours=1)))
    eventually(lambda: all(len(lines(each)) == 1 for each in witnesses))
    killed = time.time()
    server.kill()
    server = serve("--script", "--lease", f"{lease}s")
    eventually(lambda: all(len(lines(each)) == 2 for each in witnesses))

    allowed = max(killed + lease, server.ready_time) + 1
    assert all(each.stat().st_mtime <= allowed for each in witnesses)


@pytest.mark.slow
def test_photos_are_finished_after_a_kill_and_finished_derivatives_are_left_alone(
    serve, folder, eventually
):
    def process(server, number, *, count):
        specs = [
            imaging_pb2.DerivativeSpec(width=500 - 10 * number - each, format="AVIF")
            for each in range(count)
        ]
        request = imaging_pb2.ProcessImageRequest(
            uri=(folder / f"photo {number}.png").as_uri(), derivatives=specs
        )
        return server.imaging.ProcessImage(request, timeout=30).name

    def derivatives(operation):
        metadata = imaging_pb2.ProcessImageMetadata()
        operation.metadata.Unpack(metadata)
        return list(metadata.derivatives)

    def stamps(names):
        stats = [(folder / "artifacts" / name).stat() for name in names]
        return [(each.st_ino, each.st_mtime_ns) for each in stats]

    for number in range(4):
        noise = Image.effect_noise((600, 450), 60).convert("RGB")
        noise.save(folder / f"photo {number}.png")
    server = serve(*IMAGING, OUTLAST_IMAGING_ROOT=str(folder))
    early = process(server, 0, count=1)
    done = as_bytes(server.result(early))
    names = [process(server, number, count=8) for number in range(1, 4)]
    eventually(lambda: any(len(derivatives(server.get(name))) > 1 for name in names))
    recorded = [each for name in names for each in derivatives(server.get(name))]
    server.kill()
    before = stamps(recorded)
    server = serve(*IMAGING, OUTLAST_IMAGING_ROOT=str(folder))
    results = [server.result(name) for name in names]

    assert as_bytes(server.get(early)) == done
    assert all(result.HasField("response") for result in results)
    assert [len(derivatives(result)) for result in results] == [8, 8, 8]
    assert stamps(recorded) == before
