// The cuda driver's bindings: plain functions over opaque handles. Checks of user mistakes live in backends/common; here
// a wrong handle throws rather than crashes.

#include "cuda.h"

#include "../common/async.h"
#include "../common/commands.h"
#include "device.h"

namespace tutti {

namespace cuda {
namespace {

/** Closes the device when JavaScript drops it. */
struct DeviceOwner {
  explicit DeviceOwner(std::shared_ptr<Core> owned) : core(std::move(owned)) {}
  ~DeviceOwner() { core->closeAndJoin(); }
  DeviceOwner(const DeviceOwner&) = delete;
  DeviceOwner& operator=(const DeviceOwner&) = delete;
  const std::shared_ptr<Core> core;
};

using Externals = Handles<DeviceOwner, Buffer, Kernel, List>;

std::shared_ptr<Core> coreOf(const Napi::Value& value) { return Externals::unwrap<DeviceOwner>(value)->core; }

std::string text(const Napi::Value& value) { return value.IsString() ? value.As<Napi::String>().Utf8Value() : ""; }

Napi::Value describe(Napi::Env env, const DeviceFacts& facts) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("id", facts.id);
  object.Set("name", facts.name);
  object.Set("pci", facts.pci);
  object.Set("driver", facts.driver);
  object.Set("memoryBytes", Napi::Number::New(env, static_cast<double>(facts.memoryBytes)));
  Napi::Array features = Napi::Array::New(env, facts.features.size());
  for (uint32_t i = 0; i < facts.features.size(); ++i) features.Set(i, facts.features[i]);
  object.Set("features", features);
  Napi::Object limits = Napi::Object::New(env);
  for (const auto& [name, value] : facts.limits) limits.Set(name, value);
  object.Set("limits", limits);
  return object;
}

/** probe(library) → '' or the reason why not. */
Napi::Value Probe(const Napi::CallbackInfo& info) {
  return runAsync(
      info.Env(),
      [library = text(info[0])]() -> std::string {
        try {
          std::vector<std::string> tooOld;
          if (!enumerateDevices(*openApi(library), &tooOld).empty()) return "";
          std::string reason;
          for (const std::string& sentence : tooOld) reason += (reason.empty() ? "" : "; ") + sentence;
          return reason.empty() ? "the NVIDIA driver finds no device" : reason;
        } catch (const Error& error) {
          return error.what();
        }
      },
      [](Napi::Env env, std::string reason) -> Napi::Value { return Napi::String::New(env, reason); });
}

/** enumerate(library) → facts[] */
Napi::Value Enumerate(const Napi::CallbackInfo& info) {
  return runAsync(
      info.Env(), [library = text(info[0])] { return enumerateDevices(*openApi(library)); },
      [](Napi::Env env, std::vector<DeviceFacts> devices) -> Napi::Value {
        Napi::Array list = Napi::Array::New(env, devices.size());
        for (uint32_t i = 0; i < devices.size(); ++i) list.Set(i, describe(env, devices[i]));
        return list;
      });
}

/** open(library, id) → device */
Napi::Value Open(const Napi::CallbackInfo& info) {
  return runAsync(
      info.Env(),
      [library = text(info[0]), id = text(info[1])]() -> std::shared_ptr<DeviceOwner> {
        const auto api = openApi(library);
        for (DeviceFacts& facts : enumerateDevices(*api)) {
          if (facts.id != id) continue;
          auto core = std::make_shared<Core>(api, std::move(facts));
          core->start();
          return std::make_shared<DeviceOwner>(std::move(core));
        }
        throw Error("E_DEVICE_UNKNOWN", "no CUDA device has the UUID " + id);
      },
      [](Napi::Env env, std::shared_ptr<DeviceOwner> owner) { return Externals::wrap(env, std::move(owner)); });
}

/** allocate(device, bytes) → buffer */
Napi::Value Allocate(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto core = coreOf(info[0]);
    Core::Use use(*core);
    auto buffer = std::make_shared<Buffer>(core, toCount(info[1]));
    auto job = std::make_shared<Job>();
    job->zero = buffer->pointer;
    job->zeroBytes = buffer->size;
    core->enqueue(std::move(job));
    return Externals::wrap(info.Env(), std::move(buffer));
  });
}

/** release(handle): drops a buffer, kernel or list; what still uses it keeps it alive. */
Napi::Value Release(const Napi::CallbackInfo& info) {
  Externals::release<DeviceOwner>(info[0]);
  return info.Env().Undefined();
}

/** loadKernels(device, {name, entry, text, workgroup, bindings, scalarBytes}[]) → kernel[] */
Napi::Value LoadKernels(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto core = coreOf(info[0]);
    auto use = std::make_shared<Core::Use>(*core);
    const auto list = info[1].As<Napi::Array>();
    std::vector<KernelSource> sources(list.Length());
    for (uint32_t i = 0; i < sources.size(); ++i) {
      const auto object = list.Get(i).As<Napi::Object>();
      sources[i].name = text(object.Get("name"));
      sources[i].entry = text(object.Get("entry"));
      sources[i].text = text(object.Get("text"));
      const auto workgroup = object.Get("workgroup").As<Napi::Array>();
      for (uint32_t k = 0; k < 3; ++k) sources[i].workgroup[k] = workgroup.Get(k).As<Napi::Number>().Uint32Value();
      sources[i].bindings = object.Get("bindings").As<Napi::Number>().Uint32Value();
      sources[i].scalarBytes = object.Get("scalarBytes").As<Napi::Number>().Uint32Value();
    }
    return runAsync(
        info.Env(),
        [core, use = std::move(use), sources = std::move(sources)]() mutable {
          auto kernels = core->loadKernels(sources);
          use.reset();
          return kernels;
        },
        Externals::wrapAll<Kernel>);
  });
}

Binding toBinding(const CommandReader::Range& range) {
  Binding binding{Externals::unwrap<Buffer>(range.buffer), range.offset, range.bytes};
  checkRange(binding.offset, binding.bytes, binding.buffer->size);
  return binding;
}

ListCommand toCommand(CommandReader& reader) {
  ListCommand command;
  switch (reader.kind()) {
    case CommandReader::Kind::dispatch: {
      command.kind = ListCommand::Kind::dispatch;
      command.kernel = Externals::unwrap<Kernel>(reader.handle());
      reader.grid(command.grid);
      command.bindings.resize(reader.count());
      for (Binding& binding : command.bindings) binding = toBinding(reader.range());
      const std::span<const uint8_t> scalars = reader.scalars();
      command.scalars.assign(scalars.begin(), scalars.end());
      if (command.bindings.size() != command.kernel->bindings || scalars.size() != command.kernel->scalarBytes)
        throw Error("internal", "a dispatch whose bindings or scalars are not those of its kernel");
      break;
    }
    case CommandReader::Kind::copy:
      command.kind = ListCommand::Kind::copy;
      for (int i = 0; i < 2; ++i) command.bindings.push_back(toBinding(reader.range()));
      break;
    case CommandReader::Kind::fill:
      command.kind = ListCommand::Kind::fill;
      command.bindings = {toBinding(reader.range())};
      command.byte = static_cast<uint8_t>(reader.count());
      break;
    case CommandReader::Kind::barrier:
      command.kind = ListCommand::Kind::barrier;
      break;
  }
  return command;
}

/** record(device, numbers, handles, scalars) → list */
Napi::Value Record(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto core = coreOf(info[0]);
    auto use = std::make_shared<Core::Use>(*core);
    std::vector<ListCommand> commands;
    for (CommandReader reader(info[1], info[2], info[3]); !reader.done();) commands.push_back(toCommand(reader));
    return runAsync(
        info.Env(),
        [core, use = std::move(use), commands = std::move(commands)]() mutable {
          core->makeCurrent();
          auto list = std::make_shared<List>(core, std::move(commands));
          use.reset();
          return list;
        },
        [](Napi::Env env, std::shared_ptr<List> list) { return Externals::wrap(env, std::move(list)); });
  });
}

std::vector<Transfer> transfers(const Napi::Value& value) {
  std::vector<Transfer> list;
  eachTransfer(value, [&](const Napi::Value& handle, uint64_t offset, uint8_t* host, uint64_t bytes) {
    const auto& buffer = Externals::unwrap<Buffer>(handle);
    checkRange(offset, bytes, buffer->bytes);
    list.push_back({buffer, offset, host, bytes});
  });
  return list;
}

/** submit(device, list | null, writes, reads, profile, abortFlag | null) → Promise<Float64Array | undefined> */
Napi::Value Submit(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto core = coreOf(info[0]);
    auto job = std::make_shared<Job>();
    if (!info[1].IsNull()) job->list = Externals::unwrap<List>(info[1]);
    job->writes = transfers(info[2]);
    job->reads = transfers(info[3]);
    job->profile = info[4].ToBoolean().Value();
    job->aborted = abortFlag(info[5]);
    if (job->profile) job->microseconds = std::make_shared<std::vector<double>>();
    job->done = submissionPromise(info.Env(), {info[2], info[3], info[5]}, job->microseconds);
    Napi::Promise promise = job->done->promise();
    try {
      core->enqueue(job);
    } catch (const Error& error) {
      job->done->reject(error);
    }
    return promise;
  });
}

Napi::Value Memory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), static_cast<double>(coreOf(info[0])->allocatedBytes.load()));
  });
}

Napi::Value Close(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto done = Completion::create(info.Env());
    Napi::Promise promise = done->promise();
    coreOf(info[0])->close(std::move(done));
    return promise;
  });
}

/** abandon(device): at the end of the process; waits a little for the device to be idle and closed. */
Napi::Value Abandon(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    coreOf(info[0])->abandon();
    return info.Env().Undefined();
  });
}

}  // namespace
}  // namespace cuda

Napi::Object InitCuda(Napi::Env env) {
  Napi::Object driver = Napi::Object::New(env);
  addFunction(driver, "probe", cuda::Probe);
  addFunction(driver, "enumerate", cuda::Enumerate);
  addFunction(driver, "open", cuda::Open);
  addFunction(driver, "allocate", cuda::Allocate);
  addFunction(driver, "release", cuda::Release);
  addFunction(driver, "loadKernels", cuda::LoadKernels);
  addFunction(driver, "record", cuda::Record);
  addFunction(driver, "submit", cuda::Submit);
  addFunction(driver, "memory", cuda::Memory);
  addFunction(driver, "close", cuda::Close);
  addFunction(driver, "abandon", cuda::Abandon);
  return driver;
}

}  // namespace tutti
