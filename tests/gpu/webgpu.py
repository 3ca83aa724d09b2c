"""ONNX Runtime's WebGPU plug-in: a device with memory of its own that needs no GPU.

Needs the package onnxruntime-ep-webgpu and a Vulkan driver with float16, for example Mesa 25's lavapipe, named by
VK_DRIVER_FILES. ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER=1 makes the plug-in take a driver in software.
"""

import numpy as np
import onnx
import onnxruntime

from machine import ELEMENTS, NoDevice, placement

PROVIDER = "WebGpuExecutionProvider"


class WebGpuMachine:
    name = "webgpu"

    def __init__(self):
        try:
            import onnxruntime_ep_webgpu
        except ImportError as error:
            raise NoDevice(str(error)) from None
        onnxruntime.register_execution_provider_library("webgpu", onnxruntime_ep_webgpu.get_library_path())
        self.devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER][:1]
        if not self.devices:
            raise NoDevice("no WebGPU device; is VK_DRIVER_FILES set, and ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER=1?")

    def describe(self):
        return {"device": "webgpu", "plug_in": dict(self.devices[0].ep_metadata)}

    def bandwidth(self):
        return float("nan")

    def empty(self, shape, element, fill=0):
        kind = ELEMENTS[element].numpy
        bytes_ = np.full(int(np.prod(shape)) * kind.itemsize, fill, np.uint8)
        return self.buffer(bytes_.view(kind).reshape(shape), element)

    def buffer(self, array, element):
        return WebGpuBuffer(np.ascontiguousarray(array.astype(ELEMENTS[element].numpy)))

    def wait(self):
        pass  # a run returns when its work is done

    def session(self, model, *, folder=None, provider=None, config=None):
        return WebGpuSession(self, model, folder)


class WebGpuBuffer:
    def __init__(self, array):
        self.shape = array.shape
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy(array, "gpu", 0)

    def write(self, array):
        onnxruntime.copy_tensors([onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))], [self.value])

    def read(self):
        return self.value.numpy()

    def free(self):
        self.value = None


class WebGpuSession:
    def __init__(self, machine, model, folder):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.add_provider_for_devices(machine.devices, {})
        if folder is not None:
            onnx.load_external_data_for_model(model, folder)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def provider_options(self):
        return {}

    def placement(self):
        return placement(self.session)

    def bind(self, inputs, outputs):
        binding = self.session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value.value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value.value)
        return WebGpuBinding(self.session, binding)


class WebGpuBinding:
    def __init__(self, session, binding):
        self.session, self.binding = session, binding

    def run(self, graph=None, wait=True):
        self.session.run_with_iobinding(self.binding)
