// The Objective-C runtime and Metal as C++: functions and messages found at run time, references that count, texts.

#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "../common/async.h"
#include "messages.h"

namespace tutti::metal {

/** A message of the table: called with the receiver and its arguments. */
template <class Signature>
class Message;

template <class Result, class... Parameters>
class Message<Result(Parameters...)> {
 public:
  Result operator()(id receiver, Parameters... arguments) const {
    return reinterpret_cast<Result (*)(id, SEL, Parameters...)>(send_)(receiver, selector_, arguments...);
  }
  SEL selector() const { return selector_; }

  /** `send` for results that come back in registers, `sendStruct` for larger ones. */
  void bind(SEL selector, void* send, void* sendStruct) {
    selector_ = selector;
    send_ = send;
    if constexpr (!std::is_void_v<Result>) {
      if (sizeof(Result) > 16) send_ = sendStruct;
    }
  }

 private:
  SEL selector_ = nullptr;
  void* send_ = nullptr;
};

/**
 * One library's functions, classes and messages. Loaded once a path and never unloaded: Metal leaves threads behind.
 */
struct Runtime {
#define TUTTI_METAL_MEMBER(name, result, parameters) result(*name) parameters = nullptr;
  TUTTI_METAL_RUNTIME_FUNCTIONS(TUTTI_METAL_MEMBER)
  TUTTI_METAL_FUNCTIONS(TUTTI_METAL_MEMBER)
#undef TUTTI_METAL_MEMBER
  void* stackBlock = nullptr;

  struct {
#define TUTTI_METAL_MEMBER(name) id name = nullptr;
    TUTTI_METAL_CLASSES(TUTTI_METAL_MEMBER)
#undef TUTTI_METAL_MEMBER
  } classes;

  struct {
#define TUTTI_METAL_MEMBER(name, selector, signature) Message<std::type_identity_t<signature>> name;
    TUTTI_METAL_MESSAGES(TUTTI_METAL_MEMBER)
#undef TUTTI_METAL_MEMBER
  } send;

  /** Of an NSString; empty for nil. */
  std::string text(id string) const;
  /** An autoreleased NSString. */
  id string(const std::string& text) const { return send.stringWithUTF8String(classes.NSString, text.c_str()); }
  /** What an NSError says; nil: that nothing is known. */
  std::string words(id error) const;

  template <class Signature>
  bool responds(id object, const Message<Signature>& message) const {
    return send.respondsToSelector(object, message.selector());
  }
};

/** Metal at `library` (a path; empty: the system's). Throws Error E_DEVICE saying why there is none. */
const Runtime& openRuntime(const std::string& library);

/** A counted reference to an object, or to none. */
class Ref {
 public:
  Ref() = default;
  /** Of an object that is already the caller's: what `new…` and `copy…` return. */
  static Ref adopt(const Runtime& runtime, id object) { return Ref(runtime, object); }
  /** Of an object that somebody else owns, an autorelease pool for one. */
  static Ref retain(const Runtime& runtime, id object) {
    return Ref(runtime, object == nullptr ? nullptr : runtime.objc_retain(object));
  }
  Ref(const Ref& other) : Ref(other.object_ == nullptr ? Ref() : retain(*other.runtime_, other.object_)) {}
  Ref(Ref&& other) noexcept : runtime_(other.runtime_), object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr) runtime_->objc_release(object_);
  }

  id get() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  Ref(const Runtime& runtime, id object) : runtime_(&runtime), object_(object) {}

  const Runtime* runtime_ = nullptr;
  id object_ = nullptr;
};

/** Where autoreleased objects of a thread go until the end of a block. */
class AutoreleasePool {
 public:
  explicit AutoreleasePool(const Runtime& runtime) : runtime_(runtime), pool_(runtime.objc_autoreleasePoolPush()) {}
  ~AutoreleasePool() { runtime_.objc_autoreleasePoolPop(pool_); }
  AutoreleasePool(const AutoreleasePool&) = delete;
  AutoreleasePool& operator=(const AutoreleasePool&) = delete;

 private:
  const Runtime& runtime_;
  const Pool pool_;
};

}  // namespace tutti::metal
