// Buffers, kernels and command lists.

#include <algorithm>

#include "device.h"

namespace tutti::cuda {

void Resource::retire() { core_->retire(this); }

Buffer::Buffer(std::shared_ptr<Core> owner, uint64_t wanted)
    : Resource(std::move(owner)), bytes(wanted), size(std::max<uint64_t>((wanted + 3) / 4 * 4, 4)) {
  Core& c = core();
  pointer = c.allocate(size);
  c.allocatedBytes += size;
  try {
    c.add(this);
  } catch (...) {
    destroy();
    throw;
  }
}

void Buffer::destroy() {
  Core& c = core();
  if (pointer != 0) {
    c.releaseLater([api = c.api, pointer = pointer] { api->cuMemFree(pointer); });
    c.allocatedBytes -= size;
  }
  pointer = 0;
}

Kernel::Kernel(std::shared_ptr<Core> owner, const KernelSource& source)
    : Resource(std::move(owner)),
      bindings(source.bindings),
      scalarBytes(source.scalarBytes),
      workgroup{source.workgroup[0], source.workgroup[1], source.workgroup[2]} {
  const Api& api = *core().api;
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
  if (const CUresult found = api.cuModuleGetFunction(&function, module, source.entry.c_str()); found != kSuccess) {
    api.cuModuleUnload(module);
    module = nullptr;
    api.fail(found, "finding entry " + source.entry);
  }
  try {
    core().add(this);
  } catch (...) {
    destroy();
    throw;
  }
}

void Kernel::destroy() {
  if (module != nullptr) core().releaseLater([api = core().api, module = module] { api->cuModuleUnload(module); });
  module = nullptr;
  function = nullptr;
}

List::List(std::shared_ptr<Core> owner, std::vector<ListCommand> commands)
    : Resource(std::move(owner)), commands_(std::move(commands)) {
  for (const ListCommand& command : commands_) {
    if (command.kind == ListCommand::Kind::dispatch) ++dispatches_;
    if (command.kind != ListCommand::Kind::barrier) empty_ = false;
  }
  if (!empty_) {
    const Api& api = *core().api;
    // A stream of its own: captures do not mix with what runs.
    CUstream stream = nullptr;
    CUgraph graph = nullptr;
    api.check(api.cuStreamCreate(&stream, kStreamNonBlocking), "creating a stream");
    try {
      // Other threads go on allocating meanwhile, which stricter modes forbid.
      api.check(api.cuStreamBeginCapture(stream, kCaptureRelaxed), "recording");
      try {
        for (const ListCommand& command : commands_) issue(command, stream);
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
  try {
    core().add(this);
  } catch (...) {
    destroy();
    throw;
  }
}

void List::issue(const ListCommand& command, CUstream stream) const {
  const Api& api = *core().api;
  switch (command.kind) {
    case ListCommand::Kind::dispatch: {
      const Kernel& kernel = *command.kernel;
      const uint32_t* grid = command.grid;
      if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return;
      std::vector<CUdeviceptr> pointers;
      for (const Binding& binding : command.bindings) pointers.push_back(binding.pointer());
      std::vector<uint32_t> scalars(command.scalars.size() / 4);
      for (size_t i = 0; i < command.scalars.size(); ++i)
        reinterpret_cast<uint8_t*>(scalars.data())[i / 4 * 4 + i % 4] = command.scalars[i];
      std::vector<void*> parameters;
      for (CUdeviceptr& pointer : pointers) parameters.push_back(&pointer);
      for (uint32_t& scalar : scalars) parameters.push_back(&scalar);
      api.check(api.cuLaunchKernel(kernel.function, grid[0], grid[1], grid[2], kernel.workgroup[0],
                                   kernel.workgroup[1], kernel.workgroup[2], 0, stream, parameters.data(), nullptr),
                "launching a kernel");
      return;
    }
    case ListCommand::Kind::copy: {
      const Binding& from = command.bindings[0];
      const Binding& to = command.bindings[1];
      if (from.bytes == 0) return;
      api.check(api.cuMemcpyDtoDAsync(to.pointer(), from.pointer(), from.bytes, stream), "copying");
      return;
    }
    case ListCommand::Kind::fill: {
      const Binding& to = command.bindings[0];
      if (to.bytes == 0) return;
      api.check(api.cuMemsetD8Async(to.pointer(), command.byte, to.bytes, stream), "filling");
      return;
    }
    case ListCommand::Kind::barrier:
      return;  // a stream runs in order
  }
}

void List::launch(CUstream stream) const {
  if (graph_ != nullptr) core().api->check(core().api->cuGraphLaunch(graph_, stream), "launching a list");
}

void List::launchTimed(CUstream stream, const std::vector<CUevent>& events) const {
  const Api& api = *core().api;
  size_t next = 0;
  for (const ListCommand& command : commands_) {
    const bool timed = command.kind == ListCommand::Kind::dispatch;
    if (timed) api.check(api.cuEventRecord(events[next++], stream), "recording an event");
    issue(command, stream);
    if (timed) api.check(api.cuEventRecord(events[next++], stream), "recording an event");
  }
}

void List::destroy() {
  if (graph_ != nullptr) core().releaseLater([api = core().api, graph = graph_] { api->cuGraphExecDestroy(graph); });
  graph_ = nullptr;
}

}  // namespace tutti::cuda
