// MTLCommandQueue and MTLCommandBuffer: each queue runs its committed command buffers in order, on a thread of its own.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "metal.h"

using namespace vmetal;

namespace {

/**
 * What tests set to take the device away: while it is 1, every command buffer that is committed ends with
 * MTLCommandBufferErrorDeviceRemoved. Asked at the commit, on the thread of the test.
 */
bool deviceRemoved() {
  const char* set = std::getenv("TUTTI_VIRTUAL_METAL_REMOVED");
  return set && std::strcmp(set, "1") == 0;
}

void perform(CommandBuffer& c) {
  c.start = double(now()) * 1e-9;
  if (c.removed) c.failure = {kDeviceRemoved, "Device removed (00000003:kIOGPUCommandBufferCallbackErrorDeviceRemoved)"};
  for (const Pass& pass : c.passes) {
    if (c.failure.code) break;
    c.failure = execute(pass);
  }
  c.end = double(now()) * 1e-9;
  if (c.failure.code) std::fprintf(stderr, "virtual Metal: %s\n", c.failure.text.c_str());
}

void complete(CommandBuffer& c, QueueState& state) {
  {
    std::lock_guard lock(c.mutex);
    c.status = c.failure.code ? 5 : 4;
    c.passes.clear();
  }
  for (auto& block : c.handlers) {
    auto* b = reinterpret_cast<Block*>(block.data());
    b->invoke(b, &c);
  }
  c.handlers.clear();
  std::lock_guard lock(state.mutex);
  --state.open;
  state.changed.notify_all();
}

void loop(std::shared_ptr<QueueState> state) {
  for (;;) {
    CommandBuffer* c = nullptr;
    {
      std::unique_lock lock(state->mutex);
      state->changed.wait(lock, [&] { return state->closing || !state->committed.empty(); });
      if (state->committed.empty()) return;
      c = state->committed.front();
      state->committed.pop_front();
    }
    {
      ScopedPool pool;
      perform(*c);
      complete(*c, *state);
    }
    const std::shared_ptr<Completion> completion = c->completion;
    release(c);
    std::lock_guard lock(completion->mutex);
    completion->finished = true;
    completion->changed.notify_all();
  }
}

CommandBuffer* newCommandBuffer(Queue* queue) {
  {
    std::unique_lock lock(queue->state->mutex);
    queue->state->changed.wait(lock, [&] { return queue->state->open < queue->state->most; });
    ++queue->state->open;
  }
  CommandBuffer* c = make<CommandBuffer>(classNamed("MTLCommandBuffer"));
  c->queue = Ref<Queue>(queue);
  c->state = queue->state;
  return c;
}

}  // namespace

void vmetal::Queue::dispose() {
  std::lock_guard lock(state->mutex);
  state->closing = true;
  state->changed.notify_all();
}

void vmetal::CommandBuffer::dispose() {
  if (status < 2) {  // never committed: its commands never run
    std::lock_guard lock(state->mutex);
    --state->open;
    state->changed.notify_all();
  }
  passes.clear();
  handlers.clear();
  queue = {};
}

void vmetal::mistake(CommandBuffer& target, const std::string& text) {
  if (!target.failure.code) target.failure = {kInvalidResource, text};
}

void vmetal::defineQueue() {
  Class& device = classNamed("MTLDevice");
  device.on("newCommandQueueWithMaxCommandBufferCount:", [](Device*, SEL, UInt most) -> Object* {
    if (most == 0) die("newCommandQueueWithMaxCommandBufferCount: the count must not be 0");
    Queue* q = make<Queue>(classNamed("MTLCommandQueue"));
    q->state = std::make_shared<QueueState>();
    q->state->most = most;
    std::thread(loop, q->state).detach();
    return q;
  });

  Class& queue = classNamed("MTLCommandQueue");
  defineCommon(queue);
  queue.on("setLabel:", [](Object*, SEL, Object*) {});
  queue.on("commandBuffer", [](Queue* self, SEL) -> Object* { return autoreleased(newCommandBuffer(self)); });

  Class& buffer = classNamed("MTLCommandBuffer");
  defineCommon(buffer);
  buffer.on("setLabel:", [](Object*, SEL, Object*) {});
  buffer.on("addCompletedHandler:", [](CommandBuffer* self, SEL, Block* block) {
    if (self->status >= 2) die("addCompletedHandler: after commit");
    std::vector<uint8_t> copy(block->descriptor[1]);
    std::memcpy(copy.data(), block, copy.size());
    self->handlers.push_back(std::move(copy));
  });
  buffer.on("commit", [](CommandBuffer* self, SEL) {
    if (self->status >= 2) die("commit: the command buffer has been committed before");
    if (self->encoding) die("commit: an encoder of the command buffer has not ended");
    self->status = 2;
    self->removed = deviceRemoved();
    retain(self);
    std::lock_guard lock(self->state->mutex);
    self->state->committed.push_back(self);
    self->state->changed.notify_all();
  });
  buffer.on("waitUntilCompleted", [](CommandBuffer* self, SEL) {
    {
      std::lock_guard lock(self->mutex);
      if (self->status < 2) die("waitUntilCompleted: the command buffer has not been committed");
    }
    std::unique_lock lock(self->completion->mutex);
    self->completion->changed.wait(lock, [&] { return self->completion->finished; });
  });
  buffer.on("status", [](CommandBuffer* self, SEL) -> UInt {
    std::lock_guard lock(self->mutex);
    return self->status;
  });
  buffer.on("error", [](CommandBuffer* self, SEL) -> Object* {
    std::lock_guard lock(self->mutex);
    if (self->status != 5) return nullptr;
    return autoreleased(newError(kCommandDomain, self->failure.code, self->failure.text));
  });
  buffer.on("GPUStartTime", [](CommandBuffer* self, SEL) -> double { return self->status >= 4 ? self->start : 0; });
  buffer.on("GPUEndTime", [](CommandBuffer* self, SEL) -> double { return self->status >= 4 ? self->end : 0; });
}
