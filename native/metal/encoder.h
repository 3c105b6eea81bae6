// Commands on their way into one command buffer.

#pragma once

#include "runtime.h"

namespace tutti::metal {

struct Span {
  id buffer;
  uint64_t offset;
  uint64_t bytes;
};

/** Pipelines for what blits cannot do: on macOS those take whole words only. */
struct BytePrograms {
  Ref copy;
  Ref fill;
};

/** Throws Error E_DEVICE. */
BytePrograms makeBytePrograms(const Runtime& runtime, id device);

/**
 * Begins encoders as commands need them. Metal orders encoders by the buffers they use; within one, dispatches run
 * beside each other unless there is a barrier.
 */
class Encoder {
 public:
  Encoder(const Runtime& runtime, id commandBuffer, const BytePrograms& programs)
      : rt_(runtime), commands_(Ref::retain(runtime, commandBuffer)), programs_(programs) {}
  ~Encoder() { end(); }
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  id commands() const { return commands_.get(); }
  /** A compute encoder. */
  id compute();
  /** A compute encoder of its own, which samples counters at `index` and `index + 1`. */
  id timedCompute(id samples, NSUInteger index);
  /** Any range of bytes; ranges must not overlap. */
  void copy(const Span& from, const Span& to);
  void fill(const Span& to, uint8_t byte);
  /** What comes after sees what went before. */
  void barrier();
  /** No further commands for the current encoder. */
  void end();

 private:
  enum class Kind { none, compute, blit };

  id blit();
  void begin(Kind kind, id encoder, const char* what);
  void copyBytes(const Span& from, const Span& to);
  void fillBytes(const Span& to, uint8_t byte);
  void runBytes(id pipeline, const Span* spans, NSUInteger count, uint8_t byte);

  const Runtime& rt_;
  const Ref commands_;
  const BytePrograms& programs_;
  Kind kind_ = Kind::none;
  Ref encoder_;
};

}  // namespace tutti::metal
