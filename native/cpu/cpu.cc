// The cpu driver's JavaScript face: handles in externals, arguments checked, promises for what takes time.
//
//   info()                                            facts about the processor
//   open(threads, memoryBytes) → device
//   memory(device) → bytes allocated
//   allocate(device, bytes) → buffer
//   load(path, {entry, writes, scalarBytes, scratchBytes}[]) → Promise<kernel[]>
//   record(device, numbers, handles, scalars) → list
//   submit(device, list | null, writes, reads, profile, aborted | null, here) → Promise<Float64Array | undefined>, or
//                                                     its value where the work is done: if short, with `here`
//   submitSync(device, list | null, writes, reads, profile) → Float64Array | undefined
//   close(device) → Promise
//   release(handle)                                   drops a buffer, kernel or list before it is collected

#include "cpu.h"

#ifdef _WIN32

namespace tutti {

Napi::Object InitCpu(Napi::Env env) {
  Napi::Object exports = Napi::Object::New(env);
  exports.Set("unavailable", "the cpu driver is not built for Windows yet");
  return exports;
}

}  // namespace tutti

#else

#include <algorithm>

#include "../common/commands.h"
#include "../common/heap.h"
#include "device.h"
#include "info.h"

namespace tutti {
namespace {

using namespace cpu;  // NOLINT: this file is the face of that namespace

/** What JavaScript holds of a device. */
struct Owner {
  Device device;
  const std::shared_ptr<Channel> channel;

  Owner(unsigned threads, uint64_t memoryBytes, Napi::Env env)
      : device(threads, memoryBytes), channel(Channel::create(env)) {}
};

using Externals = Handles<Owner, Buffer, Kernel, CommandList>;

Device& deviceOf(const Napi::Value& value) { return Externals::unwrap<Owner>(value)->device; }

Slice toSlice(const Napi::Value& handle, uint64_t offset, uint64_t bytes) {
  Slice slice{Externals::unwrap<Buffer>(handle), offset, bytes};
  checkRange(offset, bytes, slice.buffer->bytes());
  return slice;
}
Slice toSlice(const CommandReader::Range& range) { return toSlice(range.buffer, range.offset, range.bytes); }

Dispatch toDispatch(CommandReader& reader) {
  Dispatch dispatch;
  dispatch.kernel = Externals::unwrap<Kernel>(reader.handle());
  reader.grid(dispatch.grid);
  for (uint64_t left = reader.count(); left > 0; --left) {
    Slice slice = toSlice(reader.range());
    if (slice.offset % 64 != 0) throw Error("internal", "a binding that is not aligned to 64 bytes");
    dispatch.bindings.push_back(std::move(slice));
  }
  const std::span<const uint8_t> scalars = reader.scalars();
  dispatch.scalars.resize((scalars.size() + 3) / 4);
  std::copy(scalars.begin(), scalars.end(), reinterpret_cast<uint8_t*>(dispatch.scalars.data()));
  if (dispatch.bindings.size() != dispatch.kernel->writes.size() || scalars.size() != dispatch.kernel->scalarBytes)
    throw Error("internal", "a dispatch whose bindings or scalars are not those of its kernel");
  return dispatch;
}

Napi::Value info(const Napi::CallbackInfo& args) {
  const Napi::Env env = args.Env();
  const CpuInfo facts = readCpuInfo();
  Napi::Object result = Napi::Object::New(env);
  result.Set("model", facts.model);
  result.Set("architecture", facts.architecture);
  result.Set("cores", facts.cores);
  result.Set("memoryBytes", static_cast<double>(facts.memoryBytes));
  result.Set("l1dBytes", static_cast<double>(facts.l1dBytes));
  result.Set("l2Bytes", static_cast<double>(facts.l2Bytes));
  result.Set("l3Bytes", static_cast<double>(facts.l3Bytes));
  Napi::Array features = Napi::Array::New(env, facts.features.size());
  for (uint32_t i = 0; i < facts.features.size(); i++) features.Set(i, facts.features[i]);
  result.Set("features", features);
  return result;
}

Napi::Value open(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&] {
    const uint32_t threads = args[0].As<Napi::Number>().Uint32Value();
    keepFreedMemory();
    return Externals::wrap(args.Env(), std::make_shared<Owner>(threads, toCount(args[1]), args.Env()));
  });
}

Napi::Value memory(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    return Napi::Number::New(args.Env(), static_cast<double>(deviceOf(args[0]).memory().allocatedBytes.load()));
  });
}

Napi::Value allocate(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&] {
    return Externals::wrap(args.Env(), deviceOf(args[0]).allocate(toCount(args[1])));
  });
}

Napi::Value load(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    struct Source {
      std::string entry;
      std::vector<bool> writes;
      uint64_t scalarBytes, scratchBytes;
    };
    std::vector<Source> sources;
    const auto list = args[1].As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); i++) {
      const auto source = list.Get(i).As<Napi::Object>();
      const auto given = source.Get("writes").As<Napi::Array>();
      std::vector<bool> writes;
      for (uint32_t j = 0; j < given.Length(); j++) writes.push_back(given.Get(j).ToBoolean());
      sources.push_back({source.Get("entry").As<Napi::String>(), std::move(writes), toCount(source.Get("scalarBytes")),
                         toCount(source.Get("scratchBytes"))});
    }
    const auto work = [path = args[0].As<Napi::String>().Utf8Value(), sources = std::move(sources)] {
      const auto library = std::make_shared<Library>(path);
      std::vector<std::shared_ptr<Kernel>> kernels;
      for (const auto& [entry, writes, scalarBytes, scratchBytes] : sources) {
        kernels.push_back(
            std::make_shared<Kernel>(Kernel{library, library->function(entry), writes, scalarBytes, scratchBytes}));
      }
      return kernels;
    };
    return runAsync(args.Env(), work, Externals::wrapAll<Kernel>);
  });
}

Napi::Value record(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&] {
    std::vector<Command> commands;
    for (CommandReader reader(args[1], args[2], args[3]); !reader.done();) {
      const Napi::HandleScope scope(args.Env());
      switch (reader.kind()) {
        case CommandReader::Kind::dispatch:
          commands.emplace_back(toDispatch(reader));
          break;
        case CommandReader::Kind::copy: {
          Slice from = toSlice(reader.range());
          Slice to = toSlice(reader.range());
          if (from.bytes != to.bytes) throw Error("internal", "a copy between ranges of different size");
          commands.emplace_back(Copy{.from = std::move(from), .to = std::move(to)});
          break;
        }
        case CommandReader::Kind::fill: {
          Slice to = toSlice(reader.range());
          commands.emplace_back(Fill{.to = std::move(to), .byte = static_cast<int>(reader.count())});
          break;
        }
        case CommandReader::Kind::barrier:
          break;  // commands run one after the other anyway
      }
    }
    return Externals::wrap(args.Env(), std::make_shared<CommandList>(std::move(commands)));
  });
}

/** Arguments 1 to 4 of a submission; `profile` is the last of them. */
Submission toSubmission(const Napi::CallbackInfo& args) {
  Submission submission;
  if (args[1].IsExternal()) submission.list = Externals::unwrap<CommandList>(args[1]);
  eachTransfer(args[2], [&](const HostTransfer& transfer) {
    const auto& [buffer, offset, host, bytes, passing] = transfer;
    submission.writes.push_back({toSlice(buffer, offset, bytes), host, passing});
  });
  eachTransfer(args[3], [&](const HostTransfer& transfer) {
    const auto& [buffer, offset, host, bytes, passing] = transfer;
    submission.reads.push_back({toSlice(buffer, offset, bytes), host, passing});
  });
  if (args[4].ToBoolean()) submission.microseconds = std::make_shared<std::vector<double>>();
  return submission;
}

Napi::Value submit(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    const auto& owner = Externals::unwrap<Owner>(args[0]);
    Submission submission = toSubmission(args);
    submission.aborted = abortFlag(args[5]);
    // Promises settle in the order of submissions: not before those that are on their way.
    if (args[6].ToBoolean() && owner->channel->isQuiet() && owner->device.runHereIfShort(submission))
      return timesOf(args.Env(), submission.microseconds.get());
    const auto completion =
        submissionPromise(args.Env(), {args[2], args[3], args[5]}, submission.microseconds, owner->channel);
    const Napi::Promise promise = completion->promise();
    submission.done = [completion](std::exception_ptr error) {
      if (error) completion->reject(error);
      else completion->resolve();
    };
    owner->device.submit(std::make_shared<Submission>(std::move(submission)));
    return promise;
  });
}

Napi::Value submitSync(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    Submission submission = toSubmission(args);
    deviceOf(args[0]).runHere(submission);
    return timesOf(args.Env(), submission.microseconds.get());
  });
}

Napi::Value close(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Owner> owner = Externals::unwrap<Owner>(args[0]);
    const auto completion = Completion::create(args.Env(), [owner](Napi::Env env) -> Napi::Value {
      owner->device.shutdown();  // the queue's thread has nothing left to do
      return env.Undefined();
    });
    const Napi::Promise promise = completion->promise();
    owner->device.drain([completion] { completion->resolve(); });
    return promise;
  });
}

Napi::Value release(const Napi::CallbackInfo& args) {
  Externals::release<Owner>(args[0]);
  return args.Env().Undefined();
}

}  // namespace

Napi::Object InitCpu(Napi::Env env) {
  Napi::Object exports = Napi::Object::New(env);
  addFunction(exports, "info", info);
  addFunction(exports, "open", open);
  addFunction(exports, "memory", memory);
  addFunction(exports, "allocate", allocate);
  addFunction(exports, "load", load);
  addFunction(exports, "record", record);
  addFunction(exports, "submit", submit);
  addFunction(exports, "submitSync", submitSync);
  addFunction(exports, "close", close);
  addFunction(exports, "release", release);
  return exports;
}

}  // namespace tutti

#endif  // _WIN32
