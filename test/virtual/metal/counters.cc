// Timestamps: MTLCounterSet, MTLCounterSampleBuffer, MTLComputePassDescriptor.
#include <chrono>

#include "metal.h"

using namespace vmetal;

uint64_t vmetal::now() {
  return uint64_t(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}
/** Two and a half ticks a nanosecond, from another zero: who takes ticks for nanoseconds is seen. */
uint64_t vmetal::ticksOf(uint64_t nanoseconds) { return nanoseconds / 2 * 5 + 1000003; }

void vmetal::defineCounters() {
  Class& device = classNamed("MTLDevice");
  device.on("supportsCounterSampling:", [](Device*, SEL, UInt point) -> bool { return point == 0 && !without("counters"); });
  device.on("counterSets", [](Device*, SEL) -> Object* {
    static CounterSet* set = [] {
      CounterSet* s = make<CounterSet>(classNamed("MTLCounterSet"));
      --s->isa->live;  // the device's own
      return s;
    }();
    return autoreleased(newArray({set}));
  });
  device.on("sampleTimestamps:gpuTimestamp:", [](Device*, SEL, uint64_t* cpu, uint64_t* gpu) {
    *cpu = now();
    *gpu = ticksOf(*cpu);
  });
  device.on("newCounterSampleBufferWithDescriptor:error:", [](Device*, SEL, CounterDescriptor* d, Object** error) -> Object* {
    if (!d->set || d->count == 0 || d->count > 4096) {
      setError(error, "MTLCounterErrorDomain", 1,
               !d->set ? "counter sample buffer: no counter set"
                       : "counter sample buffer: " + std::to_string(d->count) + " samples, of 1 to 4096");
      return nullptr;
    }
    CounterBuffer* b = make<CounterBuffer>(classNamed("MTLCounterSampleBuffer"));
    b->samples.assign(d->count, ~uint64_t(0));
    return b;
  });

  Class& set = classNamed("MTLCounterSet");
  defineCommon(set);
  set.on("name", [](CounterSet*, SEL) -> Object* { return autoreleased(newString("timestamp")); });

  Class& descriptor = classNamed("MTLCounterSampleBufferDescriptor");
  defineCommon(descriptor);
  descriptor.onClass(
      "new", [](Object*, SEL) -> Object* { return make<CounterDescriptor>(classNamed("MTLCounterSampleBufferDescriptor")); });
  descriptor.on("setLabel:", [](Object*, SEL, Object*) {});
  descriptor.on("setCounterSet:", [](CounterDescriptor* self, SEL, CounterSet* s) { self->set = Ref<CounterSet>(s); });
  descriptor.on("setStorageMode:", [](CounterDescriptor* self, SEL, UInt mode) { self->storage = mode; });
  descriptor.on("setSampleCount:", [](CounterDescriptor* self, SEL, UInt n) { self->count = n; });

  Class& buffer = classNamed("MTLCounterSampleBuffer");
  defineCommon(buffer);
  buffer.on("resolveCounterRange:", [](CounterBuffer* self, SEL, Range range) -> Object* {
    if (range.location > self->samples.size() || range.length > self->samples.size() - range.location) return nullptr;
    const auto* from = reinterpret_cast<const uint8_t*>(self->samples.data() + range.location);
    return autoreleased(newData({from, from + range.length * 8}));
  });

  Class& pass = classNamed("MTLComputePassDescriptor");
  defineCommon(pass);
  pass.onClass("new", [](Object*, SEL) -> Object* { return make<PassDescriptor>(classNamed("MTLComputePassDescriptor")); });
  pass.on("setDispatchType:", [](PassDescriptor* self, SEL, UInt type) { self->dispatchType = type; });
  pass.on("sampleBufferAttachments", [](PassDescriptor* self, SEL) -> Object* {
    if (!self->attachments) {
      AttachmentArray* a = make<AttachmentArray>(classNamed("MTLComputePassSampleBufferAttachmentDescriptorArray"));
      self->attachments = Ref<AttachmentArray>(a);
      release(a);
    }
    retain(self->attachments.get());
    return autoreleased(static_cast<Object*>(self->attachments.get()));
  });
  Class& attachments = classNamed("MTLComputePassSampleBufferAttachmentDescriptorArray");
  defineCommon(attachments);
  attachments.on("objectAtIndexedSubscript:", [](AttachmentArray* self, SEL, UInt i) -> Object* {
    if (i >= 4) die("sampleBufferAttachments: index " + std::to_string(i) + " of 4");
    if (!self->items[i]) {
      Attachment* a = make<Attachment>(classNamed("MTLComputePassSampleBufferAttachmentDescriptor"));
      self->items[i] = Ref<Attachment>(a);
      release(a);
    }
    retain(self->items[i].get());
    return autoreleased(static_cast<Object*>(self->items[i].get()));
  });
  Class& attachment = classNamed("MTLComputePassSampleBufferAttachmentDescriptor");
  defineCommon(attachment);
  attachment.on("setSampleBuffer:", [](Attachment* self, SEL, CounterBuffer* b) { self->buffer = Ref<CounterBuffer>(b); });
  attachment.on("setStartOfEncoderSampleIndex:", [](Attachment* self, SEL, UInt i) { self->start = i; });
  attachment.on("setEndOfEncoderSampleIndex:", [](Attachment* self, SEL, UInt i) { self->end = i; });
}
