// The functions of a driver object: see backends/common/resources.ts and backends/common/gpu.ts for their other side.

#include "driver.h"

#include "commands.h"
#include "heap.h"

namespace tutti::gpu {

namespace {

/** Closes the device when JavaScript drops it. */
struct DeviceOwner {
  explicit DeviceOwner(std::shared_ptr<Device> owned) : device(std::move(owned)) {}
  ~DeviceOwner() { device->closeAndJoin(); }
  DeviceOwner(const DeviceOwner&) = delete;
  DeviceOwner& operator=(const DeviceOwner&) = delete;
  const std::shared_ptr<Device> device;
  /** For submissions; set on JavaScript's thread. */
  std::shared_ptr<Channel> channel;
};

using Externals = Handles<DeviceOwner, Buffer, Kernel, List>;

const Driver& driverOf(const Napi::CallbackInfo& info) { return *static_cast<const Driver*>(info.Data()); }

std::shared_ptr<Device> deviceOf(const Napi::Value& value) { return Externals::unwrap<DeviceOwner>(value)->device; }

/** A buffer, kernel or list of `device`. */
template <class T>
const std::shared_ptr<T>& ofDevice(const Napi::Value& value, const Device& device) {
  const std::shared_ptr<T>& object = Externals::unwrap<T>(value);
  if (object->device() != &device) throw Error("internal", "a handle of another device");
  return object;
}

std::string text(const Napi::Value& value) { return value.IsString() ? value.As<Napi::String>().Utf8Value() : ""; }

uint32_t number(const Napi::Value& value) { return value.As<Napi::Number>().Uint32Value(); }

Napi::Value describe(Napi::Env env, const DeviceFacts& facts) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("id", facts.id);
  object.Set("name", facts.name);
  object.Set("driver", facts.driver);
  object.Set("software", Napi::Boolean::New(env, facts.software));
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
      [&driver = driverOf(info), library = text(info[0])]() -> std::string {
        try {
          return driver.whyNot(library);
        } catch (const Error& error) {
          return error.what();
        }
      },
      [](Napi::Env env, std::string reason) -> Napi::Value { return Napi::String::New(env, reason); });
}

/** enumerate(library) → facts[] */
Napi::Value Enumerate(const Napi::CallbackInfo& info) {
  return runAsync(
      info.Env(), [&driver = driverOf(info), library = text(info[0])] { return driver.enumerate(library); },
      [](Napi::Env env, std::vector<DeviceFacts> devices) -> Napi::Value {
        Napi::Array list = Napi::Array::New(env, devices.size());
        for (uint32_t i = 0; i < devices.size(); ++i) list.Set(i, describe(env, devices[i]));
        return list;
      });
}

/** open(library, id, cache, staging) → device */
Napi::Value Open(const Napi::CallbackInfo& info) {
  return runAsync(
      info.Env(),
      [&driver = driverOf(info), library = text(info[0]), id = text(info[1]),
       options = OpenOptions{text(info[2]), info[3].ToBoolean().Value()}]() -> std::shared_ptr<DeviceOwner> {
        auto device = driver.open(library, id, options);
        if (!device) throw Error("E_DEVICE_UNKNOWN", "no device has the id " + id);
        auto owner = std::make_shared<DeviceOwner>(std::move(device));
        owner->device->start();
        return owner;
      },
      [](Napi::Env env, std::shared_ptr<DeviceOwner> owner) {
        keepFreedMemory();
        owner->channel = Channel::create(env);
        return Externals::wrap(env, std::move(owner));
      });
}

/** allocate(device, bytes) → buffer */
Napi::Value Allocate(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return Externals::wrap(info.Env(), deviceOf(info[0])->allocate(toCount(info[1])));
  });
}

/** release(handle): drops a buffer, kernel or list; what still uses it keeps it alive. */
Napi::Value Release(const Napi::CallbackInfo& info) {
  Externals::release<DeviceOwner>(info[0]);
  return info.Env().Undefined();
}

KernelSource toSource(const Napi::Object& object) {
  KernelSource source;
  source.name = text(object.Get("name"));
  source.entry = text(object.Get("entry"));
  source.text = text(object.Get("text"));
  if (const Napi::Value words = object.Get("words"); words.IsTypedArray()) {
    const auto array = words.As<Napi::Uint32Array>();
    source.words.assign(array.Data(), array.Data() + array.ElementLength());
  }
  const auto workgroup = object.Get("workgroup").As<Napi::Array>();
  for (uint32_t i = 0; i < 3; ++i) source.workgroup[i] = number(workgroup.Get(i));
  source.bindings = number(object.Get("bindings"));
  source.scalarBytes = number(object.Get("scalarBytes"));
  source.subgroupSize = number(object.Get("subgroupSize"));
  source.dynamicShared = number(object.Get("dynamicShared"));
  const auto maps = object.Get("tensorMaps").As<Napi::Array>();
  for (uint32_t i = 0; i < maps.Length(); ++i) source.tensorMaps.push_back(toCount(maps.Get(i)));
  return source;
}

/**
 * loadKernels(device, {name, entry, text | words, workgroup, bindings, scalarBytes, subgroupSize, dynamicShared,
 * tensorMaps}[]) → kernel[]
 */
Napi::Value LoadKernels(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto device = deviceOf(info[0]);
    auto use = std::make_shared<Device::Use>(*device);
    const auto list = info[1].As<Napi::Array>();
    std::vector<KernelSource> sources;
    for (uint32_t i = 0; i < list.Length(); ++i) sources.push_back(toSource(list.Get(i).As<Napi::Object>()));
    return runAsync(
        info.Env(),
        [device, use = std::move(use), sources = std::move(sources)]() mutable {
          auto kernels = device->loadKernels(sources);
          use.reset();
          return kernels;
        },
        Externals::wrapAll<Kernel>);
  });
}

Binding toBinding(const CommandReader::Range& range, const Device& device) {
  Binding binding{ofDevice<Buffer>(range.buffer, device), range.offset, range.bytes};
  checkRange(binding.offset, binding.bytes, binding.buffer->size);
  return binding;
}

Command toCommand(CommandReader& reader, const Device& device) {
  Command command;
  switch (reader.kind()) {
    case CommandReader::Kind::dispatch: {
      command.kind = Command::Kind::dispatch;
      command.kernel = ofDevice<Kernel>(reader.handle(), device);
      reader.grid(command.grid);
      command.bindings.resize(reader.count());
      for (Binding& binding : command.bindings) binding = toBinding(reader.range(), device);
      const std::span<const uint8_t> scalars = reader.scalars();
      command.scalars.assign(scalars.begin(), scalars.end());
      if (command.bindings.size() != command.kernel->bindings || scalars.size() != command.kernel->scalarBytes)
        throw Error("internal", "a dispatch whose bindings or scalars are not those of its kernel");
      break;
    }
    case CommandReader::Kind::copy:
      command.kind = Command::Kind::copy;
      for (int i = 0; i < 2; ++i) command.bindings.push_back(toBinding(reader.range(), device));
      break;
    case CommandReader::Kind::fill:
      command.kind = Command::Kind::fill;
      command.bindings = {toBinding(reader.range(), device)};
      command.byte = static_cast<uint8_t>(reader.count());
      break;
    case CommandReader::Kind::barrier:
      command.kind = Command::Kind::barrier;
      break;
  }
  return command;
}

/** record(device, numbers, handles, scalars) → list */
Napi::Value Record(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto device = deviceOf(info[0]);
    auto use = std::make_shared<Device::Use>(*device);
    std::vector<Command> commands;
    for (CommandReader reader(info[1], info[2], info[3]); !reader.done();)
      commands.push_back(toCommand(reader, *device));
    return runAsync(
        info.Env(),
        [device, use = std::move(use), commands = std::move(commands)]() mutable {
          auto list = device->record(std::move(commands));
          use.reset();
          return list;
        },
        [](Napi::Env env, std::shared_ptr<List> list) { return Externals::wrap(env, std::move(list)); });
  });
}

std::vector<Transfer> transfers(const Napi::Value& value, const Device& device) {
  std::vector<Transfer> list;
  eachTransfer(value, [&](const HostTransfer& transfer) {
    const auto& buffer = ofDevice<Buffer>(transfer.buffer, device);
    checkRange(transfer.offset, transfer.bytes, buffer->bytes);
    list.push_back({buffer, transfer.offset, transfer.host, transfer.bytes});
  });
  return list;
}

/** submit(device, list | null, writes, reads, profile, abortFlag | null) → Promise<Float64Array | undefined> */
Napi::Value Submit(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto& owner = Externals::unwrap<DeviceOwner>(info[0]);
    const auto device = owner->device;
    auto job = std::make_shared<Job>();
    if (!info[1].IsNull()) job->list = ofDevice<List>(info[1], *device);
    job->writes = transfers(info[2], *device);
    job->reads = transfers(info[3], *device);
    job->profile = info[4].ToBoolean().Value() && device->timesDispatches();
    job->aborted = abortFlag(info[5]);
    if (job->profile) job->microseconds = std::make_shared<std::vector<double>>();
    job->done = submissionPromise(info.Env(), {info[2], info[3], info[5]}, job->microseconds, owner->channel);
    Napi::Promise promise = job->done->promise();
    try {
      device->enqueue(job);
    } catch (const Error& error) {
      job->done->reject(error);
    }
    return promise;
  });
}

Napi::Value Memory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), static_cast<double>(deviceOf(info[0])->allocatedBytes()));
  });
}

Napi::Value Close(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto done = Completion::create(info.Env());
    Napi::Promise promise = done->promise();
    deviceOf(info[0])->close(std::move(done));
    return promise;
  });
}

/** abandon(device): at the end of the process; waits a little for the device to be idle and closed. */
Napi::Value Abandon(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    deviceOf(info[0])->abandon();
    return info.Env().Undefined();
  });
}

}  // namespace

Napi::Object driverObject(Napi::Env env, const Driver& driver) {
  constexpr std::pair<const char*, Napi::Value (*)(const Napi::CallbackInfo&)> functions[] = {
      {"probe", Probe},   {"enumerate", Enumerate},     {"open", Open},     {"allocate", Allocate},
      {"release", Release}, {"loadKernels", LoadKernels}, {"record", Record}, {"submit", Submit},
      {"memory", Memory}, {"close", Close},             {"abandon", Abandon},
  };
  Napi::Object object = Napi::Object::New(env);
  for (const auto& [name, function] : functions)
    object.Set(name, Napi::Function::New(env, function, name, const_cast<Driver*>(&driver)));
  return object;
}

}  // namespace tutti::gpu
