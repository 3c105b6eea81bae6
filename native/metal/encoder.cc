// Encoders, and copies and fills of any bytes.

#include "encoder.h"

#include <algorithm>

namespace tutti::metal {

namespace {

constexpr uint64_t kBytesOfThread = 16;
constexpr NSUInteger kThreads = 64;

/** What the byte kernels get as their last buffer. Buffers are bound at whole words, where the bytes begin `shift` on. */
struct BytesOf {
  uint64_t bytes;
  uint32_t shift[2];
  uint32_t value;
  uint32_t unused;
};

constexpr const char* kByteSource = R"(#include <metal_stdlib>
using namespace metal;
struct Bytes { ulong bytes; uint shift[2]; uint value; uint unused; };
kernel void tutti_copy_bytes(device const uchar* from [[buffer(0)]], device uchar* to [[buffer(1)]],
                             constant Bytes& span [[buffer(2)]],
                             uint3 group [[threadgroup_position_in_grid]],
                             uint3 local [[thread_position_in_threadgroup]]) {
  ulong begin = (ulong(group.x) * 64 + local.x) * 16;
  for (ulong at = begin; at < begin + 16 && at < span.bytes; ++at) to[at + span.shift[1]] = from[at + span.shift[0]];
}
kernel void tutti_fill_bytes(device uchar* to [[buffer(0)]], constant Bytes& span [[buffer(1)]],
                             uint3 group [[threadgroup_position_in_grid]],
                             uint3 local [[thread_position_in_threadgroup]]) {
  ulong begin = (ulong(group.x) * 64 + local.x) * 16;
  for (ulong at = begin; at < begin + 16 && at < span.bytes; ++at) to[at + span.shift[0]] = uchar(span.value);
}
)";

Span part(const Span& span, uint64_t at, uint64_t bytes) { return {span.buffer, span.offset + at, bytes}; }

/** A span as ragged head, whole words and ragged tail. */
struct Words {
  uint64_t head;
  uint64_t words;
  explicit Words(const Span& span)
      : head(std::min<uint64_t>((4 - span.offset % 4) % 4, span.bytes)), words((span.bytes - head) / 4 * 4) {}
};

}  // namespace

BytePrograms makeBytePrograms(const Runtime& rt, id device) {
  id error = nullptr;
  const Ref library = Ref::adopt(rt, rt.send.newLibraryWithSource(device, rt.string(kByteSource), nullptr, &error));
  if (!library) throw Error("E_DEVICE", "compiling the driver's own kernels failed: " + rt.words(error));
  const auto pipeline = [&](const char* entry) {
    const Ref function = Ref::adopt(rt, rt.send.newFunctionWithName(library.get(), rt.string(entry)));
    const Ref descriptor = Ref::adopt(rt, rt.send.new_(rt.classes.MTLComputePipelineDescriptor));
    rt.send.setComputeFunction(descriptor.get(), function.get());
    id why = nullptr;
    Ref made = Ref::adopt(rt, rt.send.newComputePipelineState(device, descriptor.get(), 0, nullptr, &why));
    if (!made) throw Error("E_DEVICE", "compiling the driver's own kernels failed: " + rt.words(why));
    return made;
  };
  return {pipeline("tutti_copy_bytes"), pipeline("tutti_fill_bytes")};
}

// Encoders -------------------------------------------------------------------------------------------------------

void Encoder::begin(Kind kind, id encoder, const char* what) {
  if (encoder == nullptr) throw Error("E_DEVICE", std::string("Metal gives no ") + what + " encoder");
  encoder_ = Ref::retain(rt_, encoder);
  kind_ = kind;
}

void Encoder::end() {
  if (encoder_) rt_.send.endEncoding(encoder_.get());
  encoder_ = Ref();
  kind_ = Kind::none;
}

id Encoder::compute() {
  if (kind_ != Kind::compute) {
    end();
    id encoder = rt_.send.computeCommandEncoderWithDispatchType(commands_.get(), kDispatchConcurrent);
    begin(Kind::compute, encoder, "compute");
  }
  return encoder_.get();
}

id Encoder::timedCompute(id samples, NSUInteger index) {
  end();
  const Ref pass = Ref::adopt(rt_, rt_.send.new_(rt_.classes.MTLComputePassDescriptor));
  rt_.send.setDispatchType(pass.get(), kDispatchConcurrent);
  id attachment = rt_.send.objectAtIndexedSubscript(rt_.send.sampleBufferAttachments(pass.get()), 0);
  rt_.send.setSampleBuffer(attachment, samples);
  rt_.send.setStartOfEncoderSampleIndex(attachment, index);
  rt_.send.setEndOfEncoderSampleIndex(attachment, index + 1);
  begin(Kind::compute, rt_.send.computeCommandEncoderWithDescriptor(commands_.get(), pass.get()), "compute");
  return encoder_.get();
}

id Encoder::blit() {
  if (kind_ != Kind::blit) {
    end();
    begin(Kind::blit, rt_.send.blitCommandEncoder(commands_.get()), "blit");
  }
  return encoder_.get();
}

void Encoder::barrier() {
  switch (kind_) {
    case Kind::none:
      return;
    case Kind::compute:
      return rt_.send.memoryBarrierWithScope(encoder_.get(), kScopeBuffers);
    case Kind::blit:
      return end();
  }
}

// Bytes ----------------------------------------------------------------------------------------------------------

void Encoder::copy(const Span& from, const Span& to) {
  if (to.bytes == 0) return;
  const Words words(to);
  if (words.words == 0 || from.offset % 4 != to.offset % 4) return copyBytes(from, to);
  const uint64_t tail = words.head + words.words;
  copyBytes(part(from, 0, words.head), part(to, 0, words.head));
  copyBytes(part(from, tail, to.bytes - tail), part(to, tail, to.bytes - tail));
  const Span source = part(from, words.head, words.words), target = part(to, words.head, words.words);
  rt_.send.copyFromBuffer(blit(), source.buffer, source.offset, target.buffer, target.offset, target.bytes);
}

void Encoder::fill(const Span& to, uint8_t byte) {
  if (to.bytes == 0) return;
  const Words words(to);
  const uint64_t tail = words.head + words.words;
  fillBytes(part(to, 0, words.head), byte);
  fillBytes(part(to, tail, to.bytes - tail), byte);
  if (words.words == 0) return;
  const Span whole = part(to, words.head, words.words);
  rt_.send.fillBuffer(blit(), whole.buffer, {whole.offset, whole.bytes}, byte);
}

void Encoder::copyBytes(const Span& from, const Span& to) {
  const Span spans[] = {from, to};
  runBytes(programs_.copy.get(), spans, 2, 0);
}

void Encoder::fillBytes(const Span& to, uint8_t byte) { runBytes(programs_.fill.get(), &to, 1, byte); }

void Encoder::runBytes(id pipeline, const Span* spans, NSUInteger count, uint8_t byte) {
  const uint64_t bytes = spans[0].bytes;
  if (bytes == 0) return;
  id encoder = compute();
  rt_.send.setComputePipelineState(encoder, pipeline);
  BytesOf scalars{bytes, {}, byte, 0};
  for (NSUInteger i = 0; i < count; ++i) {
    scalars.shift[i] = static_cast<uint32_t>(spans[i].offset % 4);
    rt_.send.setBuffer(encoder, spans[i].buffer, spans[i].offset / 4 * 4, i);
  }
  rt_.send.setBytes(encoder, &scalars, sizeof scalars, count);
  const uint64_t covered = kBytesOfThread * kThreads;
  rt_.send.dispatchThreadgroups(encoder, {(bytes + covered - 1) / covered, 1, 1}, {kThreads, 1, 1});
}

}  // namespace tutti::metal
