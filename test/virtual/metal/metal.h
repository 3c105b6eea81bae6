// The objects of Metal: device, buffers, libraries and pipelines, queues, command buffers and their commands, indirect
// command buffers, counters. Methods are in the file of each kind.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "compiler.h"
#include "foundation.h"
#include "machine.h"
#include "memory.h"
#include "objc.h"

namespace vmetal {

using UInt = unsigned long;
struct Size {
  UInt width, height, depth;
};
struct Range {
  UInt location, length;
};

constexpr UInt kMaxBufferLength = UInt(4) << 30;
/** Offset alignment of buffers in the constant address space, as macOS asks. */
constexpr UInt kConstantAlignment = 256;

/** MTLCommandBufferError. */
enum CommandError : long { kInternal = 1, kPageFault = 3, kOutOfMemory = 8, kInvalidResource = 9, kDeviceRemoved = 11 };
constexpr const char* kCommandDomain = "MTLCommandBufferErrorDomain";

struct Device : Object {};
/** Whether TUTTI_VIRTUAL_METAL_WITHOUT, a list with commas, names `what`: a test wants a device that has less. */
bool without(const char* what);

struct Buffer : Object {
  uint8_t* start = nullptr;
  UInt bytes = 0;
  bool isPrivate = false;
  void dispose() override;
};

// Libraries and pipelines -----------------------------------------------------------------------------------------------

struct LibraryOptions : Object {
  bool fastMath = true;
};
struct Library : Object {
  Compiled compiled;
  void dispose() override { compiled = {}; }
};
struct Function : Object {
  Ref<Library> library;
  size_t index = 0;
  const CompiledKernel& kernel() const { return library->compiled.kernels[index]; }
  void dispose() override { library = {}; }
};
struct Archive : Object {
  std::map<std::string, std::vector<uint8_t>> objects;  // of compiled code, by key
};
struct ArchiveDescriptor : Object {
  std::string path;
};
struct PipelineDescriptor : Object {
  Ref<Function> function;
  bool indirect = false;
  UInt maxThreads = 0;
  std::vector<Ref<Archive>> archives;
  void dispose() override {
    function = {};
    archives.clear();
  }
};
struct Pipeline : Object {
  Ref<Function> function;
  bool indirect = false;
  UInt maxThreads = kMaxThreads;
  UInt threadgroupBytes = 0;
  void dispose() override { function = {}; }
};

// Counters --------------------------------------------------------------------------------------------------------------

struct CounterSet : Object {};
struct CounterDescriptor : Object {
  Ref<CounterSet> set;
  UInt count = 0;
  UInt storage = 0;
  void dispose() override { set = {}; }
};
struct CounterBuffer : Object {
  std::vector<uint64_t> samples;
};
struct Attachment : Object {
  Ref<CounterBuffer> buffer;
  UInt start = ~UInt(0), end = ~UInt(0);
  void dispose() override { buffer = {}; }
};
struct AttachmentArray : Object {
  Ref<Attachment> items[4];
  void dispose() override {
    for (auto& i : items) i = {};
  }
};
struct PassDescriptor : Object {
  UInt dispatchType = 0;
  Ref<AttachmentArray> attachments;
  void dispose() override { attachments = {}; }
};
/** Nanoseconds of a clock that never goes back, and the GPU's ticks at a time of it. */
uint64_t now();
uint64_t ticksOf(uint64_t nanoseconds);

// Commands --------------------------------------------------------------------------------------------------------------

struct Bound {
  Ref<Buffer> buffer;
  UInt offset = 0;
  std::shared_ptr<std::vector<uint8_t>> bytes;  // of setBytes
};

/** What a command buffer does, in order. */
struct DispatchCommand {
  Ref<Pipeline> pipeline;
  std::vector<Bound> buffers;
  Size groups, size;
};
struct IndirectBuffer;
struct ExecuteCommand {
  Ref<IndirectBuffer> commands;
  Range range;
  std::set<const Buffer*> resident;
};
struct BarrierCommand {};
struct CopyCommand {
  Ref<Buffer> from, to;
  UInt fromOffset, toOffset, bytes;
};
struct FillCommand {
  Ref<Buffer> buffer;
  Range range;
  uint8_t value;
};
using Command = std::variant<DispatchCommand, ExecuteCommand, BarrierCommand, CopyCommand, FillCommand>;

/** The commands of one encoder. */
struct Pass {
  bool concurrent = false;
  Ref<CounterBuffer> counters;
  UInt startSample = ~UInt(0), endSample = ~UInt(0);
  std::vector<Command> commands;
};

/** A command buffer's failure: the first one counts. */
struct Failure {
  long code = 0;
  std::string text;
};
Failure execute(const Pass& pass);

/** One command of an indirect command buffer. Buffers are not kept alive by it, as in Metal. */
struct IndirectCommand : Object {
  Pipeline* pipeline = nullptr;
  struct Slot {
    Buffer* buffer = nullptr;
    UInt offset = 0;
  } slots[kMaxBuffers];
  bool barrier = false, set = false;
  Size groups{}, size{};
  UInt maxBindings = 0;
};
struct IndirectDescriptor : Object {
  UInt types = 0, maxBindings = 0;
  bool inheritBuffers = true, inheritPipeline = true;
};
struct IndirectBuffer : Object {
  std::vector<Ref<IndirectCommand>> commands;
  void dispose() override { commands.clear(); }
};

// Queues ----------------------------------------------------------------------------------------------------------------

struct CommandBuffer;
/** What a queue's thread shares with the queue: it may outlive it. */
struct QueueState {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<CommandBuffer*> committed;  // a reference each
  UInt open = 0, most = 64;              // command buffers that have not completed
  bool closing = false;
};
struct Queue : Object {
  std::shared_ptr<QueueState> state;
  void dispose() override;
};

/** A copied block: `invoke(block, commandBuffer)`. */
struct Block {
  void* isa;
  int flags, reserved;
  void (*invoke)(Block*, Object*);
  const unsigned long* descriptor;  // reserved, size
};

/** What those who wait for a command buffer wait for: its queue has called the handlers and holds it no more. */
struct Completion {
  std::mutex mutex;
  std::condition_variable changed;
  bool finished = false;
};

struct CommandBuffer : Object {
  Ref<Queue> queue;
  std::shared_ptr<QueueState> state;
  std::vector<Pass> passes;
  std::vector<std::vector<uint8_t>> handlers;
  std::shared_ptr<Completion> completion = std::make_shared<Completion>();
  std::mutex mutex;
  UInt status = 0;  // NotEnqueued, Enqueued, Committed, Scheduled, Completed, Error
  bool encoding = false;
  bool removed = false;  // the device was, at the commit
  Failure failure;
  double start = 0, end = 0;
  void dispose() override;
};

struct Encoder : Object {
  Ref<CommandBuffer> target;
  Pass pass;
  bool ended = false;
  // Of compute encoders
  Ref<Pipeline> pipeline;
  std::vector<Bound> buffers;
  std::set<const Buffer*> resident;
  void dispose() override;
};

/** The first mistake in encoding becomes the command buffer's error. */
void mistake(CommandBuffer& target, const std::string& text);
/** Whether a kernel may run so; otherwise why not. */
std::string checkDispatch(const Pipeline& pipeline, Size groups, Size size);

void defineDevice();
void defineLibrary();
void defineQueue();
void defineEncoders();
void defineIndirect();
void defineCounters();

}  // namespace vmetal
