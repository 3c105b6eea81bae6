// The vulkan driver's bindings: plain functions over opaque handles. Checks of user mistakes live in
// backends/vulkan/driver.ts; here a wrong handle throws rather than crashes.

#include "vulkan.h"

#include "../common/async.h"

#ifdef TUTTI_NO_VULKAN_HEADERS

namespace tutti {

namespace {
constexpr const char* kReason =
    "the add-on was built without the Vulkan headers: install them (Debian: libvulkan-dev) and run `npm run build`";
}

Napi::Object InitVulkan(Napi::Env env) {
  Napi::Object driver = Napi::Object::New(env);
  driver.Set("probe", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
               return runAsync(info.Env(), [] { return 0; },
                               [](Napi::Env e, int) -> Napi::Value { return Napi::String::New(e, kReason); });
             }));
  return driver;
}

}  // namespace tutti

#else

#include <cstring>
#include <variant>

#include "device.h"

namespace tutti {

namespace vulkan {
namespace {

/** Closes the device when JavaScript drops it. */
struct DeviceOwner {
  explicit DeviceOwner(std::shared_ptr<Core> owned) : core(std::move(owned)) {}
  ~DeviceOwner() { core->closeAndJoin(); }
  DeviceOwner(const DeviceOwner&) = delete;
  DeviceOwner& operator=(const DeviceOwner&) = delete;
  const std::shared_ptr<Core> core;
};

using Handle = std::variant<std::monostate, std::shared_ptr<DeviceOwner>, std::shared_ptr<Buffer>,
                            std::shared_ptr<Kernel>, std::shared_ptr<List>>;

template <class T>
Napi::Value wrap(Napi::Env env, std::shared_ptr<T> object) {
  return Napi::External<Handle>::New(env, new Handle(std::move(object)), [](Napi::Env, Handle* handle) { delete handle; });
}

template <class T>
const std::shared_ptr<T>& unwrap(const Napi::Value& value) {
  if (value.IsExternal()) {
    Handle* handle = value.As<Napi::External<Handle>>().Data();
    if (auto* object = std::get_if<std::shared_ptr<T>>(handle)) return *object;
  }
  throw Error("internal", "a handle of another kind, or one already released");
}

std::shared_ptr<Core> coreOf(const Napi::Value& value) { return unwrap<DeviceOwner>(value)->core; }

std::string text(const Napi::Value& value) { return value.IsString() ? value.As<Napi::String>().Utf8Value() : ""; }

Napi::Value describe(Napi::Env env, const DeviceFacts& facts) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("id", facts.id);
  object.Set("name", facts.name);
  object.Set("driver", facts.driver);
  object.Set("driverVersion", Napi::Number::New(env, facts.driverVersion));
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

/** probe(icd) → '' or the reason why not. */
Napi::Value Probe(const Napi::CallbackInfo& info) {
  return runAsync(
      info.Env(),
      [icd = text(info[0])]() -> std::string {
        try {
          const auto instance = instanceFor(icd);
          if (!enumerateDevices(*instance).empty()) return "";
          return icd.empty() ? "the Vulkan loader found no device with Vulkan 1.1 and a compute queue: install a driver "
                               "(Debian: mesa-vulkan-drivers)"
                             : "the driver named by TUTTI_VULKAN_ICD offers no device: " + icd;
        } catch (const Error& error) {
          return error.what();
        }
      },
      [](Napi::Env env, std::string reason) -> Napi::Value { return Napi::String::New(env, reason); });
}

/** enumerate(icd) → facts[] */
Napi::Value Enumerate(const Napi::CallbackInfo& info) {
  return runAsync(
      info.Env(), [icd = text(info[0])] { return enumerateDevices(*instanceFor(icd)); },
      [](Napi::Env env, std::vector<DeviceFacts> devices) -> Napi::Value {
        Napi::Array list = Napi::Array::New(env, devices.size());
        for (uint32_t i = 0; i < devices.size(); ++i) list.Set(i, describe(env, devices[i]));
        return list;
      });
}

/** open(icd, id, cacheFile, forceStaging) → device */
Napi::Value Open(const Napi::CallbackInfo& info) {
  return runAsync(
      info.Env(),
      [icd = text(info[0]), id = text(info[1]), cacheFile = text(info[2]),
       staging = info[3].ToBoolean().Value()]() -> std::shared_ptr<DeviceOwner> {
        const auto instance = instanceFor(icd);
        for (DeviceFacts& facts : enumerateDevices(*instance)) {
          if (facts.id != id) continue;
          auto core = std::make_shared<Core>(instance, std::move(facts), cacheFile, staging);
          core->start();
          return std::make_shared<DeviceOwner>(std::move(core));
        }
        throw Error("E_DEVICE_UNKNOWN", "no Vulkan device has the UUID " + id);
      },
      [](Napi::Env env, std::shared_ptr<DeviceOwner> owner) { return wrap(env, std::move(owner)); });
}

/** allocate(device, bytes) → buffer */
Napi::Value Allocate(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto core = coreOf(info[0]);
    Core::Use use(*core);
    auto buffer = std::make_shared<Buffer>(core, static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value()));
    if (buffer->mapped != nullptr && buffer->size <= (64u << 10)) {
      std::memset(buffer->mapped, 0, buffer->size);
    } else {
      auto job = std::make_shared<Job>();
      job->zero = buffer;
      core->enqueue(std::move(job));
    }
    return wrap(info.Env(), std::move(buffer));
  });
}

/** release(handle): drops a buffer, kernel or list; what still uses it keeps it alive. */
Napi::Value Release(const Napi::CallbackInfo& info) {
  if (info[0].IsExternal()) {
    Handle* handle = info[0].As<Napi::External<Handle>>().Data();
    if (!std::holds_alternative<std::shared_ptr<DeviceOwner>>(*handle)) *handle = std::monostate{};
  }
  return info.Env().Undefined();
}

/** loadKernels(device, {name, entry, words, bindings, scalarBytes, subgroupSize}[]) → kernel[] */
Napi::Value LoadKernels(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto core = coreOf(info[0]);
    auto use = std::make_shared<Core::Use>(*core);
    const auto list = info[1].As<Napi::Array>();
    std::vector<KernelSource> sources(list.Length());
    for (uint32_t i = 0; i < sources.size(); ++i) {
      const auto object = list.Get(i).As<Napi::Object>();
      const auto words = object.Get("words").As<Napi::Uint32Array>();
      sources[i].name = text(object.Get("name"));
      sources[i].entry = text(object.Get("entry"));
      sources[i].words.assign(words.Data(), words.Data() + words.ElementLength());
      sources[i].bindings = object.Get("bindings").As<Napi::Number>().Uint32Value();
      sources[i].scalarBytes = object.Get("scalarBytes").As<Napi::Number>().Uint32Value();
      sources[i].subgroupSize = object.Get("subgroupSize").As<Napi::Number>().Uint32Value();
    }
    return runAsync(
        info.Env(),
        [core, use = std::move(use), sources = std::move(sources)]() mutable {
          auto kernels = core->loadKernels(sources);
          use.reset();
          return kernels;
        },
        [](Napi::Env env, std::vector<std::shared_ptr<Kernel>> kernels) -> Napi::Value {
          Napi::Array array = Napi::Array::New(env, kernels.size());
          for (uint32_t i = 0; i < kernels.size(); ++i) array.Set(i, wrap(env, std::move(kernels[i])));
          return array;
        });
  });
}

/** Reads the flat encoding that driver.ts writes. */
class CommandReader {
 public:
  CommandReader(const Napi::Float64Array& numbers, const Napi::Array& handles, const Napi::Uint8Array& scalars)
      : numbers_(numbers.Data()), count_(numbers.ElementLength()), handles_(handles), scalars_(scalars) {}

  std::vector<ListCommand> read() {
    std::vector<ListCommand> commands;
    while (at_ < count_) {
      ListCommand command;
      switch (static_cast<int>(number())) {
        case 0: {
          command.kind = ListCommand::Kind::dispatch;
          command.kernel = handle<Kernel>();
          for (uint32_t& groups : command.grid) groups = static_cast<uint32_t>(number());
          command.bindings.resize(static_cast<size_t>(number()));
          for (Binding& binding : command.bindings) binding = range();
          const auto offset = static_cast<size_t>(number()), bytes = static_cast<size_t>(number());
          if (offset + bytes > scalars_.ByteLength()) throw Error("internal", "scalars out of bounds");
          command.scalars.assign(scalars_.Data() + offset, scalars_.Data() + offset + bytes);
          if (command.bindings.size() != command.kernel->bindings || bytes != command.kernel->scalarBytes)
            throw Error("internal", "a dispatch whose bindings or scalars are not those of its kernel");
          break;
        }
        case 1:
          command.kind = ListCommand::Kind::copy;
          command.bindings = {range(), range()};
          break;
        case 2:
          command.kind = ListCommand::Kind::fill;
          command.bindings = {range()};
          command.byte = static_cast<uint8_t>(number());
          break;
        case 3:
          command.kind = ListCommand::Kind::barrier;
          break;
        default:
          throw Error("internal", "unknown command");
      }
      commands.push_back(std::move(command));
    }
    return commands;
  }

 private:
  double number() {
    if (at_ >= count_) throw Error("internal", "commands end too early");
    return numbers_[at_++];
  }
  template <class T>
  std::shared_ptr<T> handle() {
    return unwrap<T>(handles_.Get(static_cast<uint32_t>(number())));
  }
  Binding range() {
    Binding binding;
    binding.buffer = handle<Buffer>();
    binding.offset = static_cast<uint64_t>(number());
    binding.bytes = static_cast<uint64_t>(number());
    if (binding.offset + binding.bytes > binding.buffer->size) throw Error("internal", "a range out of its buffer");
    return binding;
  }

  const double* numbers_;
  size_t count_;
  size_t at_ = 0;
  Napi::Array handles_;
  Napi::Uint8Array scalars_;
};

/** record(device, numbers, handles, scalars) → list */
Napi::Value Record(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto core = coreOf(info[0]);
    auto use = std::make_shared<Core::Use>(*core);
    CommandReader reader(info[1].As<Napi::Float64Array>(), info[2].As<Napi::Array>(), info[3].As<Napi::Uint8Array>());
    return runAsync(
        info.Env(),
        [core, use = std::move(use), commands = reader.read()]() mutable {
          auto list = std::make_shared<List>(core, std::move(commands));
          use.reset();
          return list;
        },
        [](Napi::Env env, std::shared_ptr<List> list) { return wrap(env, std::move(list)); });
  });
}

/** Pairs of (buffer, offset, Uint8Array), flat. */
std::vector<Transfer> transfers(const Napi::Value& value) {
  const auto flat = value.As<Napi::Array>();
  std::vector<Transfer> list(flat.Length() / 3);
  for (uint32_t i = 0; i < list.size(); ++i) {
    auto data = flat.Get(3 * i + 2).As<Napi::Uint8Array>();
    list[i].buffer = unwrap<Buffer>(flat.Get(3 * i));
    list[i].offset = static_cast<uint64_t>(flat.Get(3 * i + 1).As<Napi::Number>().Int64Value());
    list[i].host = data.Data();
    list[i].bytes = data.ByteLength();
    if (list[i].offset + list[i].bytes > list[i].buffer->bytes) throw Error("internal", "a transfer out of its buffer");
  }
  return list;
}

/** submit(device, list | null, writes, reads, profile, abortFlag | null) → Promise<Float64Array | undefined> */
Napi::Value Submit(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    const auto core = coreOf(info[0]);
    auto job = std::make_shared<Job>();
    if (!info[1].IsNull()) job->list = unwrap<List>(info[1]);
    job->writes = transfers(info[2]);
    job->reads = transfers(info[3]);
    job->profile = info[4].ToBoolean().Value() && core->facts.timestampBits > 0;
    auto microseconds = std::make_shared<std::vector<double>>();
    job->microseconds = microseconds;
    // The arrays must outlive the job; the references die with `result`, on this thread.
    auto held = std::make_shared<std::vector<Napi::ObjectReference>>();
    held->push_back(Napi::Persistent(info[2].As<Napi::Object>()));
    held->push_back(Napi::Persistent(info[3].As<Napi::Object>()));
    if (!info[5].IsNull()) {
      auto flag = info[5].As<Napi::Int32Array>();
      static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t));
      job->aborted = reinterpret_cast<std::atomic<int32_t>*>(flag.Data());
      held->push_back(Napi::Persistent(info[5].As<Napi::Object>()));
    }
    const bool profile = job->profile;
    job->done = Completion::create(env, [held, microseconds, profile](Napi::Env e) -> Napi::Value {
      if (!profile) return e.Undefined();
      auto array = Napi::Float64Array::New(e, microseconds->size());
      for (size_t i = 0; i < microseconds->size(); ++i) array[i] = (*microseconds)[i];
      return array;
    });
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

/** abandon(device): blocks until the device is idle and closed. */
Napi::Value Abandon(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    coreOf(info[0])->abandon();
    return info.Env().Undefined();
  });
}

}  // namespace
}  // namespace vulkan

Napi::Object InitVulkan(Napi::Env env) {
  Napi::Object driver = Napi::Object::New(env);
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    driver.Set(name, Napi::Function::New(env, function, name));
  };
  add("probe", vulkan::Probe);
  add("enumerate", vulkan::Enumerate);
  add("open", vulkan::Open);
  add("allocate", vulkan::Allocate);
  add("release", vulkan::Release);
  add("loadKernels", vulkan::LoadKernels);
  add("record", vulkan::Record);
  add("submit", vulkan::Submit);
  add("memory", vulkan::Memory);
  add("close", vulkan::Close);
  add("abandon", vulkan::Abandon);
  return driver;
}

}  // namespace tutti

#endif
