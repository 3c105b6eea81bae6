// MTLIndirectCommandBuffer and its compute commands.
#include "metal.h"

using namespace vmetal;

void vmetal::defineIndirect() {
  classNamed("MTLDevice")
      .on("newIndirectCommandBufferWithDescriptor:maxCommandCount:options:",
          [](Device*, SEL, IndirectDescriptor* d, UInt count, UInt) -> Object* {
            if (d->types != 1 << 5)
              die("indirect command buffers: only concurrent dispatches are supported by the virtual device");
            if (d->inheritBuffers || d->inheritPipeline)
              die("indirect command buffers: inherited buffers and pipelines are not supported by the virtual device");
            if (count == 0 || count > 16384)
              die("indirect command buffers: " + std::to_string(count) + " commands, of 1 to 16384");
            if (d->maxBindings > kMaxBuffers)
              die("indirect command buffers: " + std::to_string(d->maxBindings) + " buffer bindings, of at most " +
                  std::to_string(kMaxBuffers));
            if (without("indirect")) return nullptr;
            IndirectBuffer* b = make<IndirectBuffer>(classNamed("MTLIndirectCommandBuffer"));
            for (UInt i = 0; i < count; ++i) {
              IndirectCommand* c = make<IndirectCommand>(classNamed("MTLIndirectComputeCommand"));
              c->maxBindings = d->maxBindings;
              b->commands.emplace_back(c);
              release(c);
            }
            return b;
          });

  Class& descriptor = classNamed("MTLIndirectCommandBufferDescriptor");
  defineCommon(descriptor);
  descriptor.onClass(
      "new", [](Object*, SEL) -> Object* { return make<IndirectDescriptor>(classNamed("MTLIndirectCommandBufferDescriptor")); });
  descriptor.on("setCommandTypes:", [](IndirectDescriptor* self, SEL, UInt types) { self->types = types; });
  descriptor.on("setInheritBuffers:", [](IndirectDescriptor* self, SEL, bool on) { self->inheritBuffers = on; });
  descriptor.on("setInheritPipelineState:", [](IndirectDescriptor* self, SEL, bool on) { self->inheritPipeline = on; });
  descriptor.on("setMaxKernelBufferBindCount:", [](IndirectDescriptor* self, SEL, UInt n) { self->maxBindings = n; });

  Class& buffer = classNamed("MTLIndirectCommandBuffer");
  defineCommon(buffer);
  buffer.on("setLabel:", [](Object*, SEL, Object*) {});
  buffer.on("indirectComputeCommandAtIndex:", [](IndirectBuffer* self, SEL, UInt i) -> Object* {
    if (i >= self->commands.size())
      die("indirectComputeCommandAtIndex: " + std::to_string(i) + " is beyond the " + std::to_string(self->commands.size()) +
          " commands");
    retain(self->commands[i].get());
    return autoreleased(static_cast<Object*>(self->commands[i].get()));
  });

  Class& command = classNamed("MTLIndirectComputeCommand");
  defineCommon(command);
  command.on("setComputePipelineState:", [](IndirectCommand* self, SEL, Pipeline* p) {
    if (!p->indirect) die("indirect commands: the pipeline was made without supportIndirectCommandBuffers");
    self->pipeline = p;
  });
  command.on("setKernelBuffer:offset:atIndex:", [](IndirectCommand* self, SEL, Buffer* b, UInt offset, UInt i) {
    if (i >= self->maxBindings)
      die("setKernelBuffer: index " + std::to_string(i) + " is beyond the " + std::to_string(self->maxBindings) +
          " bindings of the descriptor");
    if (b && offset >= b->bytes)
      die("setKernelBuffer: offset " + std::to_string(offset) + " is beyond a buffer of " + std::to_string(b->bytes) + " bytes");
    self->slots[i] = {b, offset};
  });
  command.on("concurrentDispatchThreadgroups:threadsPerThreadgroup:", [](IndirectCommand* self, SEL, Size groups, Size size) {
    if (!self->pipeline) die("concurrentDispatchThreadgroups: no pipeline is set");
    const std::string wrong = checkDispatch(*self->pipeline, groups, size);
    if (!wrong.empty()) die(wrong);
    self->groups = groups;
    self->size = size;
    self->set = true;
  });
  command.on("setBarrier", [](IndirectCommand* self, SEL) { self->barrier = true; });
}
