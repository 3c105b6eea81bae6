// Runs what an encoder has recorded. Between two barriers a concurrent encoder promises no order: there the commands run
// last to first, so that a barrier that is missing shows.
#include <algorithm>
#include <cstring>

#include "metal.h"

namespace vmetal {
namespace {

/** The memory of a dispatch's bindings, checked against what its kernel asks. */
Failure bind(Dispatch& d, const Pipeline& pipeline, const std::vector<Bound>& buffers, std::vector<Buffer*>& touched,
             std::vector<uint8_t*>& temporary) {
  const CompiledKernel& kernel = pipeline.function->kernel();
  d.library = &pipeline.function->library->compiled;
  d.kernel = &kernel;
  for (const Parameter& p : kernel.text.parameters) {
    if (p.binding != Binding::Buffer) continue;
    const std::string what = "kernel '" + kernel.text.name + "': '" + p.name + "' [[buffer(" + std::to_string(p.index) + ")]] ";
    if (p.index >= buffers.size()) return {kInvalidResource, what + "is beyond the bindings"};
    const Bound& b = buffers[p.index];
    if (b.bytes) {
      // A copy between closed pages, as any buffer.
      uint8_t* at = Memory::instance().allocate(b.bytes->size());
      if (!at) return {kOutOfMemory, "no memory for setBytes"};
      std::memcpy(at, b.bytes->data(), b.bytes->size());
      Memory::instance().label(at, "setBytes");
      temporary.push_back(at);
      d.buffers[p.index] = reinterpret_cast<uint64_t>(at);
      continue;
    }
    Buffer* buffer = b.buffer.get();
    if (!buffer) return {kInvalidResource, what + "is not set"};
    if (p.constantSpace && b.offset % kConstantAlignment)
      return {kInvalidResource, what + "is of constant memory, bound at offset " + std::to_string(b.offset) +
                                    ", which is not a multiple of " + std::to_string(kConstantAlignment)};
    if (b.offset % 4)
      return {kInvalidResource, what + "is bound at offset " + std::to_string(b.offset) + ", which is not a multiple of 4"};
    d.buffers[p.index] = reinterpret_cast<uint64_t>(buffer->start + b.offset);
    touched.push_back(buffer);
  }
  return {};
}

Failure dispatch(const Pipeline& pipeline, const std::vector<Bound>& buffers, Size groups, Size size) {
  Dispatch d;
  std::vector<Buffer*> touched;
  std::vector<uint8_t*> temporary;
  Failure failure = bind(d, pipeline, buffers, touched, temporary);
  if (!failure.code) {
    const UInt grid[3] = {groups.width, groups.height, groups.depth}, threads[3] = {size.width, size.height, size.depth};
    for (int i = 0; i < 3; ++i) {
      d.groups[i] = uint32_t(grid[i]);
      d.size[i] = uint32_t(threads[i]);
    }
    const Fault fault = run(d);
    if (fault.kind != FaultKind::None) {
      const bool access = fault.kind == FaultKind::Access;
      failure = {access ? kPageFault : kInternal,
                 (access ? "Caused GPU Address Fault Error: " : "Internal Error: ") + fault.text};
    }
  }
  for (Buffer* b : touched) {
    const std::string damage = Memory::instance().damage(b->start);
    if (!damage.empty() && !failure.code)
      failure = {kPageFault, "Caused GPU Address Fault Error: kernel '" + d.kernel->text.name + "': " + damage};
  }
  for (uint8_t* at : temporary) Memory::instance().release(at);
  return failure;
}

Failure runIndirect(const IndirectCommand& c, const ExecuteCommand& execute, UInt index) {
  const std::string which = "indirect command " + std::to_string(index) + ": ";
  if (!c.set) return {};
  if (!c.pipeline) return {kInvalidResource, which + "no pipeline is set"};
  if (c.pipeline->magic != Object::kAlive) return {kInvalidResource, which + "its pipeline has been released"};
  std::vector<Bound> bound(kMaxBuffers);
  for (unsigned i = 0; i < kMaxBuffers; ++i) {
    Buffer* b = c.slots[i].buffer;
    if (!b) continue;
    if (b->magic != Object::kAlive)
      return {kPageFault, which + "the buffer at index " + std::to_string(i) + " has been released"};
    if (!execute.resident.count(b))
      return {kPageFault,
              which + "the buffer at index " + std::to_string(i) + " is not resident: useResources was not sent for it"};
    bound[i] = {Ref<Buffer>(b), c.slots[i].offset, nullptr};
  }
  Failure f = dispatch(*c.pipeline, bound, c.groups, c.size);
  if (f.code) f.text += " (" + which.substr(0, which.size() - 2) + ")";
  return f;
}

Failure runExecute(const ExecuteCommand& e) {
  const auto& all = e.commands->commands;
  UInt at = e.range.location;
  const UInt end = at + e.range.length;
  while (at < end) {
    UInt stop = at + 1;
    while (stop < end && !all[stop]->barrier) ++stop;
    for (UInt i = stop; i-- > at;)
      if (Failure f = runIndirect(*all[i].get(), e, i); f.code) return f;
    at = stop;
  }
  return {};
}

Failure runCommand(const Command& command) {
  if (const auto* d = std::get_if<DispatchCommand>(&command)) return dispatch(*d->pipeline.get(), d->buffers, d->groups, d->size);
  if (const auto* e = std::get_if<ExecuteCommand>(&command)) return runExecute(*e);
  if (const auto* c = std::get_if<CopyCommand>(&command))
    std::memcpy(c->to->start + c->toOffset, c->from->start + c->fromOffset, c->bytes);
  if (const auto* f = std::get_if<FillCommand>(&command))
    std::memset(f->buffer->start + f->range.location, f->value, f->range.length);
  return {};
}

}  // namespace

Failure execute(const Pass& pass) {
  const auto sample = [&](UInt index) {
    if (pass.counters && index != ~UInt(0)) pass.counters->samples[index] = ticksOf(now());
  };
  sample(pass.startSample);
  size_t at = 0;
  while (at < pass.commands.size()) {
    size_t stop = at + 1;
    if (pass.concurrent)
      while (stop < pass.commands.size() && !std::holds_alternative<BarrierCommand>(pass.commands[stop])) ++stop;
    for (size_t i = stop; i-- > at;)
      if (Failure f = runCommand(pass.commands[i]); f.code) return f;
    at = stop;
  }
  sample(pass.endSample);
  return {};
}

}  // namespace vmetal
