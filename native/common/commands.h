// What the bindings of all drivers do alike: opaque handles, commands and host transfers as flat arrays, submissions.
//
// The other side is backends/common (encoder.ts, resources.ts). It checks what users do wrong; here a wrong handle or
// range throws rather than crashes.

#pragma once

#include <napi.h>

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "async.h"

namespace tutti {

/** Externals that own one reference to an object of `Types`; `release` empties them before they are collected. */
template <class... Types>
class Handles {
 public:
  template <class T>
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<T> object) {
    return Napi::External<Slot>::New(env, new Slot(std::move(object)), [](Napi::Env, Slot* slot) { delete slot; });
  }

  template <class T>
  static const std::shared_ptr<T>& unwrap(const Napi::Value& value) {
    if (value.IsExternal()) {
      if (auto* object = std::get_if<std::shared_ptr<T>>(value.As<Napi::External<Slot>>().Data())) return *object;
    }
    throw Error("internal", "a handle of another kind, or one already released");
  }

  template <class T>
  static Napi::Value wrapAll(Napi::Env env, std::vector<std::shared_ptr<T>> objects) {
    Napi::Array array = Napi::Array::New(env, objects.size());
    for (uint32_t i = 0; i < objects.size(); ++i) array.Set(i, wrap(env, std::move(objects[i])));
    return array;
  }

  /** Empties a handle, unless it holds a `Kept`. */
  template <class Kept>
  static void release(const Napi::Value& value) {
    if (!value.IsExternal()) return;
    Slot* slot = value.As<Napi::External<Slot>>().Data();
    if (!std::holds_alternative<std::shared_ptr<Kept>>(*slot)) *slot = std::monostate{};
  }

 private:
  using Slot = std::variant<std::monostate, std::shared_ptr<Types>...>;
};

/** A whole number of bytes, workgroups or the like. */
inline uint64_t toCount(double number) {
  if (!(number >= 0 && number <= 9007199254740991.0)) throw Error("internal", "not a count: " + std::to_string(number));
  return static_cast<uint64_t>(number);
}
inline uint64_t toCount(const Napi::Value& value) { return toCount(value.As<Napi::Number>().DoubleValue()); }

/** Throws unless `bytes` at `offset` lie in `size`. */
inline void checkRange(uint64_t offset, uint64_t bytes, uint64_t size) {
  if (offset <= size && bytes <= size - offset) return;
  throw Error("internal", std::to_string(bytes) + " bytes at " + std::to_string(offset) + " of a buffer of " +
                              std::to_string(size));
}

/** Reads the commands that backends/common/encoder.ts writes, one after the other. */
class CommandReader {
 public:
  enum class Kind { dispatch = 0, copy = 1, fill = 2, barrier = 3 };
  struct Range {
    Napi::Value buffer;
    uint64_t offset;
    uint64_t bytes;
  };

  CommandReader(const Napi::Value& numbers, const Napi::Value& handles, const Napi::Value& scalars)
      : numbers_(numbers.As<Napi::Float64Array>()),
        handles_(handles.As<Napi::Array>()),
        scalars_(scalars.As<Napi::Uint8Array>()) {}

  bool done() const { return at_ >= numbers_.ElementLength(); }
  Kind kind() {
    const uint64_t kind = count();
    if (kind > static_cast<uint64_t>(Kind::barrier)) throw Error("internal", "unknown command");
    return static_cast<Kind>(kind);
  }
  uint64_t count() {
    if (done()) throw Error("internal", "commands end too early");
    return toCount(numbers_[at_++]);
  }
  Napi::Value handle() { return handles_.Get(static_cast<uint32_t>(count())); }
  Range range() {
    Napi::Value buffer = handle();
    const uint64_t offset = count();
    return {buffer, offset, count()};
  }
  void grid(uint32_t (&grid)[3]) {
    for (uint32_t& groups : grid) groups = static_cast<uint32_t>(count());
  }
  /** Valid as long as the array that the reader was made of. */
  std::span<const uint8_t> scalars() {
    const uint64_t offset = count(), bytes = count();
    checkRange(offset, bytes, scalars_.ByteLength());
    return {scalars_.Data() + offset, bytes};
  }

 private:
  Napi::Float64Array numbers_;
  Napi::Array handles_;
  Napi::Uint8Array scalars_;
  size_t at_ = 0;
};

/** A piece of host memory that goes to a buffer or comes from there. */
struct HostTransfer {
  Napi::Value buffer;
  uint64_t offset;
  uint8_t* host;
  uint64_t bytes;
  /** The buffer need not hold the data after the submission. */
  bool passing;
};

/** Calls `use` for each four entries of a flat array of (buffer, offset, Uint8Array, passing). */
template <class Use>
void eachTransfer(const Napi::Value& value, Use use) {
  const auto flat = value.As<Napi::Array>();
  const uint32_t length = flat.Length();
  for (uint32_t i = 0; i + 3 < length; i += 4) {
    const Napi::Value array = flat.Get(i + 2);
    void* data = nullptr;
    size_t bytes = 0;
    napi_typedarray_type type;
    if (napi_get_typedarray_info(array.Env(), array, &type, &bytes, &data, nullptr, nullptr) != napi_ok ||
        type != napi_uint8_array)
      throw Error("internal", "a transfer without an array of bytes");
    use(HostTransfer{flat.Get(i), toCount(flat.Get(i + 1)), static_cast<uint8_t*>(data), bytes,
                     flat.Get(i + 3).ToBoolean()});
  }
}

/** Becomes non-zero when nobody wants the result any more; null if the caller cannot abort. */
inline std::atomic<int32_t>* abortFlag(const Napi::Value& value) {
  static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t));
  return value.IsTypedArray() ? reinterpret_cast<std::atomic<int32_t>*>(value.As<Napi::Int32Array>().Data()) : nullptr;
}

/** What a submission resolves to: microseconds of each dispatch, or undefined if nobody asked. */
inline Napi::Value timesOf(Napi::Env env, const std::vector<double>* microseconds) {
  if (microseconds == nullptr) return env.Undefined();
  auto array = Napi::Float64Array::New(env, microseconds->size());
  for (size_t i = 0; i < microseconds->size(); ++i) array[i] = (*microseconds)[i];
  return array;
}

/**
 * The promise of a submission. Keeps `kept` (arrays that native threads read and write) until it settles; the references
 * go on JavaScript's thread.
 */
inline std::shared_ptr<Completion> submissionPromise(Napi::Env env, std::initializer_list<Napi::Value> kept,
                                                     std::shared_ptr<const std::vector<double>> microseconds,
                                                     std::shared_ptr<Channel> channel) {
  auto references = std::make_shared<std::vector<Napi::ObjectReference>>();
  for (const Napi::Value& value : kept)
    if (value.IsObject()) references->push_back(Napi::Persistent(value.As<Napi::Object>()));
  const auto result = [references, microseconds](Napi::Env e) -> Napi::Value {
    references->clear();
    return timesOf(e, microseconds.get());
  };
  return Completion::create(env, result, std::move(channel));
}

/** Sets `object[name]` to a function. */
inline void addFunction(Napi::Object object, const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
  object.Set(name, Napi::Function::New(object.Env(), function, name));
}

}  // namespace tutti
