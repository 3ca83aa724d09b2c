"""The host, in place of a device: a rehearsal of the graphs and of the probe."""

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from machine import ELEMENTS
from reference import HOST_OPERATORS


class HostMachine:
    """Buffers are arrays; see machine.py for what runs the graphs."""

    name = "host"

    def describe(self):
        return {"device": "host"}

    def bandwidth(self):
        return float("nan")

    def empty(self, shape, element, fill=0):
        kind = ELEMENTS[element].numpy
        bytes_ = np.full(int(np.prod(shape)) * kind.itemsize, fill, np.uint8)
        return HostBuffer(bytes_.view(kind).reshape(shape))

    def buffer(self, array, element):
        return HostBuffer(array.astype(ELEMENTS[element].numpy))

    def wait(self):
        pass

    def session(self, model, *, folder=None, provider=None, config=None):
        return HostSession(model, folder)


class HostBuffer:
    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def write(self, array):
        self.array[...] = array

    def read(self):
        return self.array.copy()

    def free(self):
        self.array = None


class HostSession:
    def __init__(self, model, folder):
        onnx.checker.check_model(_declarations(model))
        if folder is not None:
            onnx.load_external_data_for_model(model, folder)
        if any(node.op_type == "PagedAttention" for node in model.graph.node):
            evaluator = ReferenceEvaluator(model, new_ops=HOST_OPERATORS)
            self.outputs, self.run = [value.name for value in model.graph.output], evaluator.run
        else:
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            self.outputs, self.run = [value.name for value in session.get_outputs()], session.run

    def provider_options(self):
        return {}

    def placement(self):
        return {}

    def bind(self, inputs, outputs):
        return HostBinding(self, inputs, outputs)


class HostBinding:
    def __init__(self, session, inputs, outputs):
        self.session, self.inputs, self.targets = session, inputs, outputs

    def run(self, graph=None, wait=True):
        feeds = {name: value if isinstance(value, np.ndarray) else value.array for name, value in self.inputs.items()}
        for name, array in zip(self.session.outputs, self.session.run(None, feeds)):
            target = self.targets[name].array
            if target.shape != array.shape or target.dtype != array.dtype:
                raise ValueError(f"{name} is {array.dtype}{array.shape}, bound is {target.dtype}{target.shape}")
            target[...] = array


def _declarations(model):
    """The model's inputs and versions alone. The checker knows neither the nodes' operators nor files of weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:], copy.graph.output[:], copy.graph.initializer[:]
    return copy
