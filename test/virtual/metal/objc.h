// An Objective-C runtime as far as a driver sees it: classes, selectors, messages, reference counts, autorelease pools.
// A released object stays as a marked shell for a while, so that a later message to it is told in words.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <unordered_map>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace vmetal {

struct Selector {
  std::string name;
};
using SEL = const Selector*;
using Imp = void (*)();

struct Class;

struct Object {
  uint32_t magic = kAlive;
  std::atomic<long> references{1};
  Class* isa = nullptr;

  virtual ~Object() = default;
  /** Gives up what the object holds; its shell stays. */
  virtual void dispose() {}

  static constexpr uint32_t kAlive = 0x4f424a43, kReleased = 0xdeadc0de;
};

/** A class is an object too: its own methods are those of messages to the class. */
struct Class : Object {
  std::string name;
  std::unordered_map<SEL, Imp> methods, classMethods;
  std::atomic<long> live{0};

  /** Defines a method: a captureless lambda that takes the receiver, the selector and the arguments. */
  template <class F>
  Class& on(const char* selector, F method) {
    methods[registerSelector(selector)] = reinterpret_cast<Imp>(+method);
    return *this;
  }
  template <class F>
  Class& onClass(const char* selector, F method) {
    classMethods[registerSelector(selector)] = reinterpret_cast<Imp>(+method);
    return *this;
  }
  static SEL registerSelector(const char* name);
};

/** The class of that name; made when it is first asked for. */
Class& classNamed(const char* name);

/** A new object of a class, with one reference. */
template <class T, class... A>
T* make(Class& isa, A&&... arguments) {
  T* object = new T(std::forward<A>(arguments)...);
  object->isa = &isa;
  ++isa.live;
  return object;
}

void retain(Object* object);
void release(Object* object);
/** To the pool of this thread; tells when there is none. */
template <class T>
T* autoreleased(T* object);
void autoreleaseObject(Object* object);
template <class T>
T* autoreleased(T* object) {
  autoreleaseObject(object);
  return object;
}

/** Holds a reference. */
template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* object) : object_(object) { retain(object); }
  Ref(const Ref& o) : object_(o.object_) { retain(object_); }
  Ref(Ref&& o) noexcept : object_(o.object_) { o.object_ = nullptr; }
  Ref& operator=(Ref o) noexcept {
    std::swap(object_, o.object_);
    return *this;
  }
  ~Ref() { release(object_); }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

/** A mistake that a real runtime answers with the end of the process: says it and ends the process. */
[[noreturn]] void die(const std::string& text);

/** An autorelease pool of a scope. */
class ScopedPool {
 public:
  ScopedPool();
  ~ScopedPool();

 private:
  void* token_;
};

/** Defines every class, once. */
void defineClasses();
void defineFoundation();
void defineMetal();

}  // namespace vmetal
