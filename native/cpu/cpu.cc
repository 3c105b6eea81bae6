// The cpu driver's JavaScript face: handles in externals, arguments checked, promises for what takes time.
//
//   info()                                            facts about the processor
//   open(threads, memoryBytes) → device
//   memory(device) → bytes allocated
//   allocate(device, bytes) → buffer
//   load(path, entries) → Promise<kernel[]>
//   record(device, commands) → list
//   submit(device, list?, writes, reads, profile, cancelled?) → Promise<Float64Array?>
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

#include <limits>

#include "../common/async.h"
#include "device.h"
#include "info.h"

namespace tutti {
namespace {

using namespace cpu;  // NOLINT: this file is the face of that namespace

template <class T>
using Handle = std::shared_ptr<T>;

/** An external owns one reference; `release` empties it. */
template <class T>
Napi::Value wrap(Napi::Env env, Handle<T> object) {
  return Napi::External<Handle<T>>::New(env, new Handle<T>(std::move(object)),
                                        [](Napi::Env, Handle<T>* handle) { delete handle; });
}

template <class T>
const Handle<T>& unwrap(Napi::Value value, const char* what) {
  if (!value.IsExternal()) throw Error("internal", std::string("cpu: expected a ") + what);
  const Handle<T>& handle = *value.As<Napi::External<Handle<T>>>().Data();
  if (!handle) throw Error("internal", std::string("cpu: this ") + what + " was released");
  return handle;
}

uint64_t toBytes(Napi::Value value, const char* what) {
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= 0 && number <= 9007199254740991.0)) throw Error("internal", std::string("cpu: bad ") + what);
  return static_cast<uint64_t>(number);
}

/** {buffer, offset, bytes} inside its buffer. */
Slice toSlice(Napi::Value value) {
  const auto object = value.As<Napi::Object>();
  Slice slice{unwrap<Buffer>(object.Get("buffer"), "buffer"), toBytes(object.Get("offset"), "offset"),
              toBytes(object.Get("bytes"), "byte count")};
  const uint64_t size = slice.buffer->bytes();
  if (slice.offset > size || slice.bytes > size - slice.offset) {
    throw Error("internal", "cpu: bytes " + std::to_string(slice.offset) + " to " +
                                std::to_string(slice.offset + slice.bytes) + " of a buffer of " + std::to_string(size));
  }
  return slice;
}

Dispatch toDispatch(const Napi::Object& command) {
  Dispatch dispatch;
  dispatch.kernel = unwrap<Kernel>(command.Get("kernel"), "kernel");
  const auto grid = command.Get("grid").As<Napi::Array>();
  for (uint32_t i = 0; i < 3; i++) dispatch.grid[i] = grid.Get(i).As<Napi::Number>().Uint32Value();
  dispatch.scratchBytes = toBytes(command.Get("scratchBytes"), "scratch size");
  const auto bindings = command.Get("bindings").As<Napi::Array>();
  for (uint32_t i = 0; i < bindings.Length(); i++) {
    Slice slice = toSlice(bindings.Get(i));
    if (slice.offset % 64 != 0) throw Error("internal", "cpu: a binding starts at byte " + std::to_string(slice.offset) + ", not on a multiple of 64");
    dispatch.pointers.push_back(slice.data());
    dispatch.bindings.push_back(std::move(slice));
  }
  const Napi::Value scalars = command.Get("scalars");
  if (scalars.IsTypedArray()) {
    const auto bytes = scalars.As<Napi::Uint8Array>();
    dispatch.scalars.resize((bytes.ByteLength() + 3) / 4);
    std::copy_n(bytes.Data(), bytes.ByteLength(), reinterpret_cast<unsigned char*>(dispatch.scalars.data()));
  }
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
    return wrap(args.Env(), std::make_shared<Device>(threads, toBytes(args[1], "memory size")));
  });
}

Napi::Value memory(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    const auto& device = unwrap<Device>(args[0], "device");
    return Napi::Number::New(args.Env(), static_cast<double>(device->memory().allocatedBytes.load()));
  });
}

Napi::Value allocate(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&] {
    return wrap(args.Env(), unwrap<Device>(args[0], "device")->allocate(toBytes(args[1], "buffer size")));
  });
}

Napi::Value load(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    std::vector<std::string> entries;
    const auto names = args[1].As<Napi::Array>();
    for (uint32_t i = 0; i < names.Length(); i++) entries.push_back(names.Get(i).As<Napi::String>());
    const auto work = [path = args[0].As<Napi::String>().Utf8Value(), entries = std::move(entries)] {
      const auto library = std::make_shared<Library>(path);
      std::vector<Handle<Kernel>> kernels;
      for (const std::string& entry : entries) {
        kernels.push_back(std::make_shared<Kernel>(Kernel{library, library->function(entry)}));
      }
      return kernels;
    };
    return runAsync(args.Env(), work, [](Napi::Env env, std::vector<Handle<Kernel>> kernels) -> Napi::Value {
      Napi::Array result = Napi::Array::New(env, kernels.size());
      for (uint32_t i = 0; i < kernels.size(); i++) result.Set(i, wrap(env, kernels[i]));
      return result;
    });
  });
}

Napi::Value record(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&] {
    auto list = std::make_shared<CommandList>();
    const auto commands = args[0].As<Napi::Array>();
    for (uint32_t i = 0; i < commands.Length(); i++) {
      const Napi::HandleScope scope(args.Env());
      const auto command = commands.Get(i).As<Napi::Object>();
      const std::string kind = command.Get("kind").As<Napi::String>();
      if (kind == "dispatch") {
        list->commands.emplace_back(toDispatch(command));
      } else if (kind == "copy") {
        Copy copy{toSlice(command.Get("from")), toSlice(command.Get("to"))};
        if (copy.from.bytes != copy.to.bytes) throw Error("internal", "cpu: a copy between ranges of different size");
        list->commands.emplace_back(std::move(copy));
      } else if (kind == "fill") {
        list->commands.emplace_back(Fill{toSlice(command.Get("to")), command.Get("byte").As<Napi::Number>().Int32Value()});
      } else {
        throw Error("internal", "cpu: unknown command " + kind);
      }
    }
    return wrap(args.Env(), std::move(list));
  });
}

/** Keeps host memory alive until the promise is settled on the JavaScript thread. */
using KeptAlive = std::shared_ptr<std::vector<Napi::ObjectReference>>;

uint8_t* hostBytes(Napi::Value value, uint64_t bytes, const KeptAlive& kept) {
  const auto array = value.As<Napi::Uint8Array>();
  if (array.ByteLength() != bytes) {
    throw Error("internal", "cpu: " + std::to_string(array.ByteLength()) + " bytes of host memory for a range of " + std::to_string(bytes));
  }
  kept->push_back(Napi::Persistent(value.As<Napi::Object>()));
  return const_cast<uint8_t*>(static_cast<const uint8_t*>(array.Data()));
}

Napi::Value submit(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    const Napi::Env env = args.Env();
    const Handle<Device> device = unwrap<Device>(args[0], "device");
    const auto submission = std::make_shared<Submission>();
    const KeptAlive kept = std::make_shared<std::vector<Napi::ObjectReference>>();
    if (args[1].IsExternal()) submission->list = unwrap<CommandList>(args[1], "command list");
    const auto writes = args[2].As<Napi::Array>();
    for (uint32_t i = 0; i < writes.Length(); i++) {
      const auto write = writes.Get(i).As<Napi::Object>();
      Slice to = toSlice(write.Get("to"));
      const unsigned char* data = hostBytes(write.Get("data"), to.bytes, kept);
      submission->writes.push_back({std::move(to), data});
    }
    const auto reads = args[3].As<Napi::Array>();
    for (uint32_t i = 0; i < reads.Length(); i++) {
      const auto read = reads.Get(i).As<Napi::Object>();
      Slice from = toSlice(read.Get("from"));
      unsigned char* into = hostBytes(read.Get("into"), from.bytes, kept);
      submission->reads.push_back({std::move(from), into});
    }
    submission->profile = args[4].ToBoolean();
    if (args[5].IsTypedArray()) {
      kept->push_back(Napi::Persistent(args[5].As<Napi::Object>()));
      submission->cancelled = args[5].As<Napi::Int32Array>().Data();
    }
    const auto completion = Completion::create(env, [submission, kept](Napi::Env e) -> Napi::Value {
      kept->clear();
      if (!submission->profile) return e.Undefined();
      const std::vector<double>& times = submission->dispatchMicroseconds;
      auto result = Napi::Float64Array::New(e, times.size());
      std::copy(times.begin(), times.end(), result.Data());
      return result;
    });
    const Napi::Promise promise = completion->promise();
    submission->done = [completion](std::exception_ptr error) {
      if (error) completion->reject(error);
      else completion->resolve();
    };
    device->submit(submission);
    return promise;
  });
}

Napi::Value close(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    const Handle<Device> device = unwrap<Device>(args[0], "device");
    const auto completion = Completion::create(args.Env(), [device](Napi::Env env) -> Napi::Value {
      device->shutdown();  // the queue's thread has nothing left to do
      return env.Undefined();
    });
    const Napi::Promise promise = completion->promise();
    device->drain([completion] { completion->resolve(); });
    return promise;
  });
}

template <class T>
Napi::Value release(const Napi::CallbackInfo& args) {
  return guarded(args.Env(), [&]() -> Napi::Value {
    if (!args[0].IsExternal()) throw Error("internal", "cpu: nothing to release");
    args[0].As<Napi::External<Handle<T>>>().Data()->reset();
    return args.Env().Undefined();
  });
}

}  // namespace

Napi::Object InitCpu(Napi::Env env) {
  Napi::Object exports = Napi::Object::New(env);
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("info", info);
  add("open", open);
  add("memory", memory);
  add("allocate", allocate);
  add("load", load);
  add("record", record);
  add("submit", submit);
  add("close", close);
  add("releaseBuffer", release<Buffer>);
  add("releaseKernel", release<Kernel>);
  add("releaseList", release<CommandList>);
  return exports;
}

}  // namespace tutti

#endif  // _WIN32
