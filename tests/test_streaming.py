"""State that stays from run to run: frame by frame, on every backend, in several streams."""

import dataclasses

import numpy as np
import onnx
import pytest

import systolith
from systolith import api
from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.passes.streaming import carry_states
from systolith.host.inputs import InputError
from systolith.reference.plan import Plan
from systolith.spec.image import Image
from systolith.spec.isa import Cell
from tests.compiler.test_recurrent import float_model
from tests.graphs import ARCHS, GraphBuilder

STEPS = 5


def networks(kind):
    """The same layer over one step, and over a whole sequence."""
    b = GraphBuilder(31)
    x = b.input((STEPS, 2, 11))
    whole = b.finish(b.recurrent(x, kind, 13, reverse=False))
    (node,) = whole.nodes
    tensors = {
        name: dataclasses.replace(tensor, shape=(1, *tensor.shape[1:]))
        for name, tensor in whole.tensors.items()
    }
    return whole, dataclasses.replace(whole, tensors=tensors), node.output


@pytest.mark.parametrize("kind", list(Cell))
@pytest.mark.parametrize(
    ("arch", "backend"), [("tiny", "machine"), ("array8", "machine"), ("tiny", "rtl"), ("array8", "rtl")]
)
def test_frame_by_frame_is_the_whole_sequence(kind, arch, backend):
    whole, frame, result = networks(kind)
    rng = np.random.default_rng(5)
    x = rng.integers(-128, 128, (STEPS, 2, 11)).astype(np.int8)
    expected = whole.run({"in0": x})[result]
    image = Image.from_bytes(api.compile(Plan.of(frame), ARCHS[arch], streaming=True).to_bytes())
    states = {}
    with systolith.Session(backend, image) as session:
        for _ in range(2):
            for t in range(STEPS):
                got = session.run({"in0": x[t : t + 1]}).raw[result]
                np.testing.assert_array_equal(got[0], expected[t], err_msg=f"frame {t}")
            session.reset()
    for t in range(STEPS):
        np.testing.assert_array_equal(
            carry_states(frame).run({"in0": x[t : t + 1]}, states)[result][0], expected[t]
        )


def test_the_cells_of_a_frame_keep_up_with_the_array():
    """The array reads the hidden state in every cycle; the cells find their own state in another block."""
    units, arch = 64, ARCHS["array8"]
    b = GraphBuilder(32)
    frame = b.finish(b.recurrent(b.input((1, 1, units)), Cell.LSTM, units, reverse=False))
    (node,) = frame.nodes
    image = api.compile(Plan.of(frame), arch, streaming=True)
    with systolith.Session("rtl", image) as session:
        (cycles,) = session.run({"in0": np.ones((1, 1, units), np.int8)}).layer_cycles
    products = (node.op.planes + 1) * Cell.LSTM.gates * units**2 // arch.macs_per_cycle
    # Beyond the products: START, fetch, loads of frame and state, and the last cell. No CELL waits for the
    # array's reads, which would cost hundreds.
    assert cycles == products + 222


def test_streams_take_turns_without_mixing():
    whole, frame, result = networks(Cell.LSTM)
    rng = np.random.default_rng(6)
    sequences = rng.integers(-128, 128, (3, STEPS, 2, 11)).astype(np.int8)
    expected = [whole.run({"in0": x})[result] for x in sequences]
    with systolith.Session(
        "machine", api.compile(Plan.of(frame), ARCHS["array8"], streaming=True)
    ) as session:
        session.run({"in0": sequences[0][:1]})
        before, streams = session.state, [session.stream() for _ in sequences]
        for t in range(STEPS):
            for n in rng.permutation(3):
                got = streams[n].run({"in0": sequences[n][t : t + 1]}).raw[result]
                np.testing.assert_array_equal(got[0], expected[n][t])
        assert session.state == before
        streams[1].reset()
        np.testing.assert_array_equal(
            streams[1].run({"in0": sequences[1][:1]}).raw[result][0], expected[1][0]
        )
        with pytest.raises(InputError, match="bytes"):
            session.state = b"short"


def test_without_streaming_each_run_begins_anew():
    _, frame, result = networks(Cell.GRU)
    image = api.compile(Plan.of(frame), ARCHS["array8"])
    assert image.states == ()
    x = {"in0": np.ones((1, 2, 11), np.int8)}
    with systolith.Session("machine", image) as session:
        first = session.run(x).raw[result]
        np.testing.assert_array_equal(session.run(x).raw[result], first)
        assert session.state == b""


@pytest.mark.parametrize(
    ("direction", "words"),
    [("bidirectional", "from the end of the sequence"), ("reverse", "from the end of the sequence")],
)
def test_a_stream_has_no_end(tmp_path, direction, words):
    model, samples = float_model("GRU", direction)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=words):
        api.compile(tmp_path / "m.onnx", "array8", {"x": samples}, streaming=True)


def test_a_model_without_state_cannot_stream():
    b = GraphBuilder(1)
    with pytest.raises(UnsupportedError, match="no recurrent layer"):
        api.compile(b.finish(b.lookup(b.input((1, 4)))), "array8", streaming=True)
