// Compute and blit encoders: they record commands into their command buffer.
#include <cstring>

#include "metal.h"

using namespace vmetal;

namespace {

Encoder* newEncoder(CommandBuffer* target, const char* name, bool concurrent) {
  if (target->status >= 2) die("an encoder is asked of a command buffer that has been committed");
  if (target->encoding) die("an encoder is asked while another one of the command buffer has not ended");
  target->encoding = true;
  Encoder* e = make<Encoder>(classNamed(name));
  e->target = Ref<CommandBuffer>(target);
  e->pass.concurrent = concurrent;
  e->buffers.resize(kMaxBuffers);
  return e;
}

/** What every message of an encoder asks first. */
void open(const Encoder* e) {
  if (e->ended) die("a message to an encoder that has ended");
}

void end(Encoder* self) {
  open(self);
  self->ended = true;
  self->target->encoding = false;
  self->target->passes.push_back(std::move(self->pass));
  self->pipeline = {};
  self->buffers.clear();
}

std::string rangeText(const Buffer& b, UInt offset, UInt bytes) {
  return "bytes " + std::to_string(offset) + " to " + std::to_string(offset + bytes) + " of a buffer of " +
         std::to_string(b.bytes);
}
/** Blits on macOS take whole words, inside their buffers. */
bool checkRange(CommandBuffer& target, const char* what, const Buffer* b, UInt offset, UInt bytes) {
  if (!b)
    mistake(target, std::string(what) + ": the buffer is nil");
  else if (offset % 4 || bytes % 4)
    mistake(target, std::string(what) + ": " + rangeText(*b, offset, bytes) + " are not whole words of 4 bytes");
  else if (bytes == 0)
    mistake(target, std::string(what) + ": the size is 0");
  else if (offset > b->bytes || bytes > b->bytes - offset)
    mistake(target, std::string(what) + ": " + rangeText(*b, offset, bytes));
  else
    return true;
  return false;
}

}  // namespace

std::string vmetal::checkDispatch(const Pipeline& p, Size groups, Size size) {
  const std::string kernel = "kernel '" + p.function->kernel().text.name + "': ";
  const UInt threads = size.width * size.height * size.depth;
  if (groups.width == 0 || groups.height == 0 || groups.depth == 0) return kernel + "a grid of no threadgroups";
  if (groups.width > UINT32_MAX || groups.height > UINT32_MAX || groups.depth > UINT32_MAX)
    return kernel + "the grid is too large";
  if (threads == 0) return kernel + "threadgroups of no threads";
  if (threads > p.maxThreads || size.width > kMaxThreads || size.height > kMaxThreads || size.depth > kMaxThreads)
    return kernel + std::to_string(threads) + " threads in a threadgroup, of at most " + std::to_string(p.maxThreads);
  return "";
}

void vmetal::Encoder::dispose() {
  if (!ended) die("an encoder is released that has not ended");
  target = {};
}

void vmetal::defineEncoders() {
  Class& commands = classNamed("MTLCommandBuffer");
  commands.on("computeCommandEncoderWithDispatchType:", [](CommandBuffer* self, SEL, UInt type) -> Object* {
    return autoreleased(newEncoder(self, "MTLComputeCommandEncoder", type == 1));
  });
  commands.on("computeCommandEncoderWithDescriptor:", [](CommandBuffer* self, SEL, PassDescriptor* d) -> Object* {
    Encoder* e = newEncoder(self, "MTLComputeCommandEncoder", d->dispatchType == 1);
    if (const Attachment* a = d->attachments ? d->attachments->items[0].get() : nullptr; a && a->buffer) {
      const UInt none = ~UInt(0), count = a->buffer->samples.size();
      if ((a->start != none && a->start >= count) || (a->end != none && a->end >= count))
        die("a sample index is beyond its counter sample buffer");
      e->pass.counters = a->buffer;
      e->pass.startSample = a->start;
      e->pass.endSample = a->end;
    }
    return autoreleased(e);
  });
  commands.on("blitCommandEncoder",
              [](CommandBuffer* self, SEL) -> Object* { return autoreleased(newEncoder(self, "MTLBlitCommandEncoder", false)); });

  Class& compute = classNamed("MTLComputeCommandEncoder");
  defineCommon(compute);
  compute.on("setLabel:", [](Object*, SEL, Object*) {});
  compute.on("endEncoding", [](Encoder* self, SEL) { end(self); });
  compute.on("setComputePipelineState:", [](Encoder* self, SEL, Pipeline* p) {
    open(self);
    self->pipeline = Ref<Pipeline>(p);
  });
  compute.on("setBuffer:offset:atIndex:", [](Encoder* self, SEL, Buffer* b, UInt offset, UInt index) {
    open(self);
    if (index >= kMaxBuffers)
      return mistake(*self->target,
                     "setBuffer: index " + std::to_string(index) + " is beyond the " + std::to_string(kMaxBuffers) + " places");
    if (b && offset >= b->bytes)
      return mistake(*self->target, "setBuffer: offset " + std::to_string(offset) + " is beyond a buffer of " +
                                        std::to_string(b->bytes) + " bytes");
    self->buffers[index] = {Ref<Buffer>(b), offset, nullptr};
  });
  compute.on("setBytes:length:atIndex:", [](Encoder* self, SEL, const uint8_t* bytes, UInt length, UInt index) {
    open(self);
    if (index >= kMaxBuffers) return mistake(*self->target, "setBytes: index " + std::to_string(index) + " is beyond the places");
    if (length == 0 || length > 4096)
      return mistake(*self->target, "setBytes: " + std::to_string(length) + " bytes, of 1 to 4096");
    self->buffers[index] = {{}, 0, std::make_shared<std::vector<uint8_t>>(bytes, bytes + length)};
  });
  compute.on("dispatchThreadgroups:threadsPerThreadgroup:", [](Encoder* self, SEL, Size groups, Size size) {
    open(self);
    if (!self->pipeline) return mistake(*self->target, "dispatchThreadgroups: no pipeline is set");
    const std::string wrong = checkDispatch(*self->pipeline.get(), groups, size);
    if (!wrong.empty()) return mistake(*self->target, wrong);
    self->pass.commands.push_back(DispatchCommand{self->pipeline, self->buffers, groups, size});
  });
  compute.on("memoryBarrierWithScope:", [](Encoder* self, SEL, UInt scope) {
    open(self);
    if ((scope & 1) == 0) return;  // not of buffers
    self->pass.commands.push_back(BarrierCommand{});
  });
  compute.on("useResources:count:usage:", [](Encoder* self, SEL, Buffer* const* all, UInt count, UInt) {
    open(self);
    for (UInt i = 0; i < count; ++i) self->resident.insert(all[i]);
  });
  compute.on("executeCommandsInBuffer:withRange:", [](Encoder* self, SEL, IndirectBuffer* b, Range range) {
    open(self);
    if (range.location > b->commands.size() || range.length > b->commands.size() - range.location)
      return mistake(*self->target, "executeCommandsInBuffer: the range is beyond the commands");
    self->pass.commands.push_back(ExecuteCommand{Ref<IndirectBuffer>(b), range, self->resident});
    // The commands' pipelines and buffers replace what was set.
    self->pipeline = {};
    self->buffers.assign(kMaxBuffers, {});
  });

  Class& blit = classNamed("MTLBlitCommandEncoder");
  defineCommon(blit);
  blit.on("setLabel:", [](Object*, SEL, Object*) {});
  blit.on("endEncoding", [](Encoder* self, SEL) { end(self); });
  blit.on("copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:",
          [](Encoder* self, SEL, Buffer* from, UInt fromOffset, Buffer* to, UInt toOffset, UInt bytes) {
            open(self);
            CommandBuffer& target = *self->target.get();
            if (!checkRange(target, "copy: source", from, fromOffset, bytes) ||
                !checkRange(target, "copy: destination", to, toOffset, bytes))
              return;
            if (from == to && fromOffset < toOffset + bytes && toOffset < fromOffset + bytes)
              return mistake(target, "copy: source and destination overlap");
            self->pass.commands.push_back(CopyCommand{Ref<Buffer>(from), Ref<Buffer>(to), fromOffset, toOffset, bytes});
          });
  blit.on("fillBuffer:range:value:", [](Encoder* self, SEL, Buffer* b, Range range, uint8_t value) {
    open(self);
    if (checkRange(*self->target.get(), "fill", b, range.location, range.length))
      self->pass.commands.push_back(FillCommand{Ref<Buffer>(b), range, value});
  });
}
