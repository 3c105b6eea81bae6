// The device and its queue: see device.h, and ../common/queue.cc for the order of the calls.

#include "device.h"

namespace tutti::metal {

namespace {

/** Command buffers that may exist at once; more than batches are in flight, as timed ones are many. */
constexpr NSUInteger kMaxCommandBuffers = 256;

Batch& own(gpu::Batch& batch) { return static_cast<Batch&>(batch); }
id handleOf(const gpu::Buffer& buffer) { return static_cast<const Buffer&>(buffer).handle.get(); }

/** What a failed command buffer means. Those after which nothing on the device can be trusted mean its loss. */
Error failure(const Runtime& rt, id error) {
  const std::string message = "running on the device failed: " + rt.words(error);
  const bool known = error != nullptr && rt.text(rt.send.domain(error)) == kCommandBufferErrorDomain;
  if (!known) return Error("E_DEVICE", message);
  switch (rt.send.code(error)) {
    case kErrorInternal:
    case kErrorTimeout:
    case kErrorPageFault:
    case kErrorAccessRevoked:
    case kErrorDeviceRemoved:
    case kErrorStackOverflow:
      return Error("E_DEVICE_LOST", message);
    case kErrorOutOfMemory:
      return Error("E_OUT_OF_MEMORY", message);
    default:
      return Error("E_DEVICE", message);
  }
}

void completed(CompletedHandler* block, id) {
  const std::unique_ptr<std::shared_ptr<Signal>> signal(static_cast<std::shared_ptr<Signal>*>(block->context));
  (*signal)->set();
}
constexpr BlockDescriptor kHandlerDescriptor{0, sizeof(CompletedHandler)};

}  // namespace

void Signal::set() {
  std::lock_guard lock(mutex_);
  set_ = true;
  changed_.notify_all();
}
void Signal::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return set_; });
}

Device::Device(const Runtime& rt, DeviceFacts described, const gpu::OpenOptions& options)
    : gpu::Device(described.unified && !options.staging),
      runtime(rt),
      facts(std::move(described)),
      archives(rt, handle(), options.cache, facts.id + " " + facts.name + " " + facts.driver),
      storage(facts.unified && !options.staging ? kStorageShared : kStoragePrivate),
      clock_(rt, handle()) {
  const AutoreleasePool pool(rt);
  queue_ = Ref::adopt(rt, rt.send.newCommandQueueWithMaxCommandBufferCount(handle(), kMaxCommandBuffers));
  if (!queue_) throw Error("E_DEVICE", "Metal gives no command queue");
  programs_ = makeBytePrograms(rt, handle());
}

std::shared_ptr<gpu::Buffer> Device::newBuffer(uint64_t bytes) { return make<Buffer>(bytes); }
std::function<void(gpu::Batch&)> Device::clearing(const gpu::Buffer& buffer) {
  return [this, span = Span{handleOf(buffer), 0, buffer.size}](gpu::Batch& batch) {
    encoderOf(own(batch)).fill(span, 0);
  };
}
std::shared_ptr<gpu::Kernel> Device::newKernel(const gpu::KernelSource& source) { return make<Kernel>(source); }
std::shared_ptr<gpu::List> Device::newList(std::vector<gpu::Command> commands) {
  return make<List>(std::move(commands));
}

// Submitter ------------------------------------------------------------------------------------------------------

std::unique_ptr<gpu::Batch> Device::newBatch() { return std::make_unique<Batch>(); }

uint8_t* Device::newRing(uint64_t bytes) {
  ring_ = Ref::adopt(runtime, runtime.send.newBufferWithLength(handle(), bytes, kStorageShared));
  if (!ring_) throw Error("E_OUT_OF_MEMORY", "allocating memory for transfers failed");
  return static_cast<uint8_t*>(runtime.send.contents(ring_.get()));
}

Encoder& Device::encoderOf(Batch& batch) {
  if (!batch.encoder) {
    id commands = runtime.send.commandBuffer(queue_.get());
    if (commands == nullptr) throw Error("E_DEVICE", "Metal gives no command buffer");
    batch.encoder.emplace(runtime, commands, programs_);
  }
  return *batch.encoder;
}

void Device::upload(gpu::Batch& batch, uint64_t from, gpu::Buffer& to, uint64_t offset, uint64_t bytes) {
  encoderOf(own(batch)).copy({ring_.get(), from, bytes}, {handleOf(to), offset, bytes});
  own(batch).uploaded = true;
}

void Device::download(gpu::Batch& batch, gpu::Buffer& from, uint64_t offset, uint64_t to, uint64_t bytes) {
  if (std::exchange(own(batch).uploaded, false)) encoderOf(own(batch)).barrier();
  encoderOf(own(batch)).copy({handleOf(from), offset, bytes}, {ring_.get(), to, bytes});
}

void Device::launch(gpu::Batch& batch, gpu::List& list, bool profile) {
  const auto& recorded = static_cast<const List&>(list);
  if (std::exchange(own(batch).uploaded, false)) encoderOf(own(batch)).barrier();
  if (profile) {
    launchTimed(own(batch), recorded);
  } else {
    recorded.encode(encoderOf(own(batch)));
  }
  encoderOf(own(batch)).barrier();
}

/** Each dispatch in a pass of its own, or in a command buffer of its own where passes cannot be timed. */
void Device::launchTimed(Batch& batch, const List& list) {
  if (facts.counters && list.dispatches > 0) batch.passes.emplace(runtime, handle(), list.dispatches);
  for (const gpu::Command& command : list.commands) {
    if (command.kind != gpu::Command::Kind::dispatch) {
      list.issue(encoderOf(batch), command);
    } else if (!command.works()) {
      batch.timedBy.push_back(std::nullopt);
    } else if (batch.passes) {
      const size_t pass = batch.timedBy.size();
      batch.timedBy.push_back(pass);
      list.dispatch(batch.passes->begin(encoderOf(batch), pass), command);
      batch.encoder->end();
    } else {
      commit(batch);
      batch.timedBy.push_back(batch.commands.size());
      list.dispatch(encoderOf(batch).compute(), command);
      commit(batch);
    }
  }
  batch.timed = true;
}

/** Sends off what is encoded. */
void Device::commit(Batch& batch) {
  if (!batch.encoder) return;
  batch.encoder->end();
  batch.commands.push_back(Ref::retain(runtime, batch.encoder->commands()));
  batch.encoder.reset();
  runtime.send.commit(batch.commands.back().get());
}

void Device::submit(gpu::Batch& base) {
  Batch& batch = own(base);
  if (!batch.encoder && batch.commands.empty()) return;
  auto ended = std::make_shared<Signal>();
  CompletedHandler handler{runtime.stackBlock, 0, 0, completed, &kHandlerDescriptor,
                           new std::shared_ptr<Signal>(ended)};
  runtime.send.addCompletedHandler(encoderOf(batch).commands(), &handler);
  commit(batch);
  batch.ended = std::move(ended);
}

// Waiter ---------------------------------------------------------------------------------------------------------

void Device::wait(gpu::Batch& base) {
  Batch& batch = own(base);
  if (batch.ended) {
    batch.ended->wait();
  } else if (!batch.commands.empty()) {
    // Something failed on the way: the device must still be done with what it got.
    runtime.send.waitUntilCompleted(batch.commands.back().get());
  }
  for (const Ref& commands : batch.commands)
    if (runtime.send.status(commands.get()) == kStatusError) throw failure(runtime, runtime.send.error(commands.get()));
}

void Device::readTimes(gpu::Batch& base, std::vector<double>& microseconds) {
  const Batch& batch = own(base);
  const std::vector<uint64_t> ticks = batch.passes ? batch.passes->ticks() : std::vector<uint64_t>();
  const double microsecondsPerTick = batch.passes ? clock_.nanosecondsPerTick() / 1000 : 0;
  for (const std::optional<size_t>& by : batch.timedBy) {
    double time = 0;
    if (by && batch.passes) {
      time = static_cast<double>(ticks[*by]) * microsecondsPerTick;
    } else if (by) {
      id commands = batch.commands[*by].get();
      time = 1e6 * (runtime.send.GPUEndTime(commands) - runtime.send.GPUStartTime(commands));
    }
    microseconds.push_back(time);
  }
}

void Device::recycle(gpu::Batch& base) noexcept {
  Batch& batch = own(base);
  batch.encoder.reset();
  batch.commands.clear();
  batch.passes.reset();
}

// End ------------------------------------------------------------------------------------------------------------

void Device::destroyAll() noexcept {
  ring_ = Ref();
  programs_ = {};
  queue_ = Ref();
}

}  // namespace tutti::metal
