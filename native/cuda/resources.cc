// Buffers, kernels and command lists.

#include "device.h"

namespace tutti::cuda {

namespace {

CUdeviceptr pointerOf(const gpu::Binding& binding) {
  return static_cast<const Buffer&>(*binding.buffer).pointer + binding.offset;
}

}  // namespace

Buffer::Buffer(const std::shared_ptr<Device>& device, uint64_t wanted) : gpu::Buffer(device, wanted), device_(*device) {
  device_.api->check(device_.api->cuMemAlloc(&pointer, size), "allocating device memory");
}

void Buffer::destroy() {
  device_.releaseLater([api = device_.api, pointer = pointer] { api->cuMemFree(pointer); });
  pointer = 0;
}

Kernel::Kernel(const std::shared_ptr<Device>& device, const gpu::KernelSource& source)
    : gpu::Kernel(device, source),
      dynamicShared(source.dynamicShared),
      tensorMaps(toTensorMaps(source.tensorMaps, source.bindings)),
      device_(*device) {
  const Api& api = *device_.api;
  module = device_.cubins.load(source.text);
  if (module == nullptr) compile(source);
  if (const CUresult found = api.cuModuleGetFunction(&function, module, source.entry.c_str()); found != kSuccess) {
    api.cuModuleUnload(module);
    module = nullptr;
    api.fail(found, "finding entry " + source.entry);
  }
  if (dynamicShared == 0) return;
  const int bytes = static_cast<int>(dynamicShared);
  if (const CUresult set = api.cuFuncSetAttribute(function, kMostDynamicShared, bytes); set != kSuccess) {
    api.cuModuleUnload(module);
    module = nullptr;
    api.fail(set, "asking for " + std::to_string(dynamicShared) + " bytes of shared memory");
  }
}

/** By the driver's JIT compiler, whose words an error carries. */
void Kernel::compile(const gpu::KernelSource& source) {
  const Api& api = *device_.api;
  std::string information(8 << 10, '\0');
  std::string errors(8 << 10, '\0');
  int options[] = {kJitInfoLog, kJitInfoLogBytes, kJitErrorLog, kJitErrorLogBytes};
  void* values[] = {information.data(), reinterpret_cast<void*>(information.size()), errors.data(),
                    reinterpret_cast<void*>(errors.size())};
  const CUresult result = api.cuModuleLoadDataEx(&module, source.text.c_str(), 4, options, values);
  if (result != kSuccess) {
    module = nullptr;
    std::string log = errors.c_str();
    while (!log.empty() && (log.back() == '\n' || log.back() == ' ')) log.pop_back();
    api.fail(result, "compiling PTX" + (log.empty() ? std::string() : " (" + log + ")"));
  }
}

void Kernel::destroy() {
  device_.releaseLater([api = device_.api, module = module] { api->cuModuleUnload(module); });
  module = nullptr;
  function = nullptr;
}

List::List(const std::shared_ptr<Device>& device, std::vector<gpu::Command> recorded)
    : gpu::List(device, std::move(recorded)), device_(*device) {
  const auto works = [](const gpu::Command& command) { return command.works(); };
  if (std::none_of(commands.begin(), commands.end(), works)) return;
  const Api& api = *device_.api;
  // A stream of its own: captures do not mix with what runs.
  CUstream stream = nullptr;
  CUgraph graph = nullptr;
  api.check(api.cuStreamCreate(&stream, kStreamNonBlocking), "creating a stream");
  try {
    // Other threads go on allocating meanwhile, which stricter modes forbid.
    api.check(api.cuStreamBeginCapture(stream, kCaptureRelaxed), "recording");
    try {
      for (const gpu::Command& command : commands) issue(command, stream);
    } catch (...) {
      api.cuStreamEndCapture(stream, &graph);
      throw;
    }
    api.check(api.cuStreamEndCapture(stream, &graph), "recording");
    api.check(api.cuGraphInstantiateWithFlags(&graph_, graph, 0), "making a graph");
    api.cuGraphDestroy(graph);
    api.cuStreamDestroy(stream);
  } catch (...) {
    if (graph != nullptr) api.cuGraphDestroy(graph);
    api.cuStreamDestroy(stream);
    throw;
  }
}

void List::issue(const gpu::Command& command, CUstream stream) const {
  if (!command.works()) return;
  const Api& api = *device_.api;
  switch (command.kind) {
    case gpu::Command::Kind::dispatch: {
      const Kernel& kernel = static_cast<const Kernel&>(*command.kernel);
      const uint32_t* grid = command.grid;
      std::vector<CUdeviceptr> pointers;
      for (const gpu::Binding& binding : command.bindings) pointers.push_back(pointerOf(binding));
      std::vector<uint32_t> scalars(command.scalars.size() / 4);
      for (size_t i = 0; i < command.scalars.size(); ++i)
        reinterpret_cast<uint8_t*>(scalars.data())[i / 4 * 4 + i % 4] = command.scalars[i];
      std::vector<void*> parameters;
      for (CUdeviceptr& pointer : pointers) parameters.push_back(&pointer);
      for (uint32_t& scalar : scalars) parameters.push_back(&scalar);
      std::vector<TensorMap> maps;
      for (const TensorMapSource& map : kernel.tensorMaps) maps.push_back(encode(api, map, pointers[map.binding]));
      for (TensorMap& map : maps) parameters.push_back(&map);
      api.check(api.cuLaunchKernel(kernel.function, grid[0], grid[1], grid[2], kernel.workgroup[0],
                                   kernel.workgroup[1], kernel.workgroup[2], kernel.dynamicShared, stream,
                                   parameters.data(), nullptr),
                "launching a kernel");
      return;
    }
    case gpu::Command::Kind::copy: {
      const gpu::Binding& from = command.bindings[0];
      const gpu::Binding& to = command.bindings[1];
      api.check(api.cuMemcpyDtoDAsync(pointerOf(to), pointerOf(from), from.bytes, stream), "copying");
      return;
    }
    case gpu::Command::Kind::fill: {
      const gpu::Binding& to = command.bindings[0];
      api.check(api.cuMemsetD8Async(pointerOf(to), command.byte, to.bytes, stream), "filling");
      return;
    }
    case gpu::Command::Kind::barrier:
      return;  // a stream runs in order
  }
}

void List::launch(CUstream stream) const {
  if (graph_ != nullptr) device_.api->check(device_.api->cuGraphLaunch(graph_, stream), "launching a list");
}

void List::launchTimed(CUstream stream, const std::vector<CUevent>& events) const {
  const Api& api = *device_.api;
  size_t next = 0;
  for (const gpu::Command& command : commands) {
    const bool timed = command.kind == gpu::Command::Kind::dispatch;
    if (timed) api.check(api.cuEventRecord(events[next++], stream), "recording an event");
    issue(command, stream);
    if (timed) api.check(api.cuEventRecord(events[next++], stream), "recording an event");
  }
}

void List::destroy() {
  if (graph_ != nullptr) device_.releaseLater([api = device_.api, graph = graph_] { api->cuGraphExecDestroy(graph); });
  graph_ = nullptr;
}

}  // namespace tutti::cuda
