// Buffers, kernels and command lists.

#include <algorithm>
#include <cstring>

#include "device.h"

namespace tutti::metal {

namespace {

/** Commands that one indirect command buffer takes. */
constexpr NSUInteger kMaxIndirect = 16384;

const Kernel& kernelOf(const gpu::Command& command) { return static_cast<const Kernel&>(*command.kernel); }
id handleOf(const gpu::Binding& binding) { return static_cast<const Buffer&>(*binding.buffer).handle.get(); }
Span spanOf(const gpu::Binding& binding) { return {handleOf(binding), binding.offset, binding.bytes}; }
/** An empty range may begin where its buffer ends, which Metal does not bind. */
uint64_t offsetOf(const gpu::Binding& binding) { return binding.bytes == 0 ? 0 : binding.offset; }
MTLSize sizeOf(const uint32_t (&size)[3]) { return {size[0], size[1], size[2]}; }

uint64_t aligned(uint64_t bytes) { return (bytes + kConstantAlignment - 1) / kConstantAlignment * kConstantAlignment; }

bool isDispatch(const gpu::Command& command) { return command.kind == gpu::Command::Kind::dispatch && command.works(); }

}  // namespace

// Buffers --------------------------------------------------------------------------------------------------------

Buffer::Buffer(const std::shared_ptr<Device>& device, uint64_t wanted) : gpu::Buffer(device, wanted), device_(*device) {
  const Runtime& rt = device_.runtime;
  handle = Ref::adopt(rt, rt.send.newBufferWithLength(device_.handle(), size, device_.storage));
  if (!handle) throw Error("E_OUT_OF_MEMORY", "allocating device memory failed");
  if (device_.storage == kStorageShared) mapped = static_cast<uint8_t*>(rt.send.contents(handle.get()));
}

void Buffer::destroy() {
  device_.releaseLater([kept = std::make_shared<Ref>(std::move(handle))] { *kept = Ref(); });
  mapped = nullptr;
}

// Kernels --------------------------------------------------------------------------------------------------------

Kernel::Kernel(const std::shared_ptr<Device>& device, const gpu::KernelSource& source) : gpu::Kernel(device, source) {
  const Runtime& rt = device->runtime;
  const Ref options = Ref::adopt(rt, rt.send.new_(rt.classes.MTLCompileOptions));
  // Our arithmetic is exactly what the source says.
  if (rt.responds(options.get(), rt.send.setMathMode)) {
    rt.send.setMathMode(options.get(), 0);
  } else {
    rt.send.setFastMathEnabled(options.get(), false);
  }
  id error = nullptr;
  const Ref library =
      Ref::adopt(rt, rt.send.newLibraryWithSource(device->handle(), rt.string(source.text), options.get(), &error));
  if (!library) throw Error("E_DEVICE", "compiling MSL failed: " + rt.words(error));
  const Ref function = Ref::adopt(rt, rt.send.newFunctionWithName(library.get(), rt.string(source.entry)));
  if (!function) throw Error("E_DEVICE", "its MSL has no kernel " + source.entry);

  const NSUInteger threads = NSUInteger{workgroup[0]} * workgroup[1] * workgroup[2];
  const Ref descriptor = Ref::adopt(rt, rt.send.new_(rt.classes.MTLComputePipelineDescriptor));
  rt.send.setLabel(descriptor.get(), rt.string(source.name));
  rt.send.setComputeFunction(descriptor.get(), function.get());
  rt.send.setSupportIndirectCommandBuffers(descriptor.get(), true);
  rt.send.setMaxTotalThreadsPerThreadgroup(descriptor.get(), threads);
  pipeline = device->archives.pipeline(descriptor.get(), source, &error);
  if (!pipeline) throw Error("E_DEVICE", "making a pipeline failed: " + rt.words(error));
  if (const NSUInteger most = rt.send.maxTotalThreadsPerThreadgroup(pipeline.get()); most < threads)
    throw Error("E_DEVICE", "it has workgroups of " + std::to_string(threads) + ", the device runs it with at most " +
                                std::to_string(most));
}

// Lists ----------------------------------------------------------------------------------------------------------

List::List(const std::shared_ptr<Device>& device, std::vector<gpu::Command> recorded)
    : gpu::List(device, std::move(recorded)), rt_(device->runtime), device_(*device), runs_(findRuns()) {
  uint64_t bytes = 0;
  for (const gpu::Command& command : commands) bytes += aligned(command.scalars.size());
  if (bytes > 0 && !runs_.empty()) {
    constants_ = Ref::adopt(rt_, rt_.send.newBufferWithLength(device_.handle(), bytes, kStorageShared));
    if (!constants_) throw Error("E_OUT_OF_MEMORY", "allocating memory for scalars failed");
  }
  for (Run& run : runs_) record(run);
}

/** One dispatch is encoded as quickly as a buffer that holds it. */
std::vector<List::Run> List::findRuns() const {
  std::vector<Run> runs;
  Run run{};
  const auto end = [&] {
    if (run.dispatches > 1) runs.push_back(run);
    run = Run{};
  };
  for (size_t i = 0; i < commands.size(); ++i) {
    if (isDispatch(commands[i])) {
      if (run.dispatches == 0) run.first = i;
      run.last = i + 1;
      if (++run.dispatches == kMaxIndirect) end();
    } else if (commands[i].works()) {
      end();
    }
  }
  end();
  return runs;
}

/**
 * Fills the run's indirect command buffer. Where the device gives none, the run stays one that is encoded each time.
 */
void List::record(Run& run) {
  NSUInteger most = 1;
  for (size_t i = run.first; i < run.last; ++i)
    most = std::max<NSUInteger>(most, commands[i].bindings.size() + (commands[i].scalars.empty() ? 0 : 1));
  const Ref descriptor = Ref::adopt(rt_, rt_.send.new_(rt_.classes.MTLIndirectCommandBufferDescriptor));
  rt_.send.setCommandTypes(descriptor.get(), kIndirectConcurrentDispatch);
  rt_.send.setInheritBuffers(descriptor.get(), false);
  rt_.send.setInheritPipelineState(descriptor.get(), false);
  rt_.send.setMaxKernelBufferBindCount(descriptor.get(), most);
  const Ref indirect = Ref::adopt(
      rt_, rt_.send.newIndirectCommandBuffer(device_.handle(), descriptor.get(), run.dispatches, kStorageShared));
  if (!indirect) return;

  uint64_t place = 0;
  for (size_t i = 0; i < run.first; ++i) place += aligned(commands[i].scalars.size());
  auto* constants = constants_ ? static_cast<uint8_t*>(rt_.send.contents(constants_.get())) : nullptr;
  NSUInteger at = 0;
  bool barrier = false;
  for (size_t i = run.first; i < run.last; ++i) {
    const gpu::Command& command = commands[i];
    if (command.kind == gpu::Command::Kind::barrier) barrier = true;
    if (!isDispatch(command)) {
      place += aligned(command.scalars.size());
      continue;
    }
    id into = rt_.send.indirectComputeCommandAtIndex(indirect.get(), at++);
    rt_.send.setComputePipelineState(into, kernelOf(command).pipeline.get());
    for (NSUInteger k = 0; k < command.bindings.size(); ++k) {
      const gpu::Binding& binding = command.bindings[k];
      rt_.send.setKernelBuffer(into, handleOf(binding), offsetOf(binding), k);
      run.buffers.push_back(handleOf(binding));
    }
    if (!command.scalars.empty()) {
      std::memcpy(constants + place, command.scalars.data(), command.scalars.size());
      rt_.send.setKernelBuffer(into, constants_.get(), place, command.bindings.size());
      place += aligned(command.scalars.size());
    }
    if (barrier) rt_.send.setBarrier(into);
    barrier = false;
    rt_.send.concurrentDispatchThreadgroups(into, sizeOf(command.grid), sizeOf(command.kernel->workgroup));
  }
  if (constants_) run.buffers.push_back(constants_.get());
  std::sort(run.buffers.begin(), run.buffers.end());
  run.buffers.erase(std::unique(run.buffers.begin(), run.buffers.end()), run.buffers.end());
  run.indirect = indirect;
}

void List::encode(Encoder& encoder) const {
  auto run = runs_.begin();
  for (size_t i = 0; i < commands.size(); ++i) {
    while (run != runs_.end() && run->first < i) ++run;
    if (run == runs_.end() || run->first != i || !run->indirect) {
      issue(encoder, commands[i]);
      continue;
    }
    id compute = encoder.compute();
    if (!run->buffers.empty())
      rt_.send.useResources(compute, run->buffers.data(), run->buffers.size(), kUsageReadWrite);
    rt_.send.executeCommandsInBuffer(compute, run->indirect.get(), {0, run->dispatches});
    i = run->last - 1;
  }
}

void List::issue(Encoder& encoder, const gpu::Command& command) const {
  switch (command.kind) {
    case gpu::Command::Kind::dispatch:
      if (command.works()) dispatch(encoder.compute(), command);
      return;
    case gpu::Command::Kind::copy:
      return encoder.copy(spanOf(command.bindings[0]), spanOf(command.bindings[1]));
    case gpu::Command::Kind::fill:
      return encoder.fill(spanOf(command.bindings[0]), command.byte);
    case gpu::Command::Kind::barrier:
      return encoder.barrier();
  }
}

void List::dispatch(id encoder, const gpu::Command& command) const {
  rt_.send.setComputePipelineState(encoder, kernelOf(command).pipeline.get());
  for (NSUInteger i = 0; i < command.bindings.size(); ++i)
    rt_.send.setBuffer(encoder, handleOf(command.bindings[i]), offsetOf(command.bindings[i]), i);
  if (!command.scalars.empty())
    rt_.send.setBytes(encoder, command.scalars.data(), command.scalars.size(), command.bindings.size());
  rt_.send.dispatchThreadgroups(encoder, sizeOf(command.grid), sizeOf(command.kernel->workgroup));
}

void List::destroy() {
  runs_.clear();
  constants_ = Ref();
}

}  // namespace tutti::metal
