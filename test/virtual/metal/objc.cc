// Classes, messages, reference counts and pools. objc_msgSend finds the method by class and selector and jumps to it with
// every argument register and the stack as they were.
#include "objc.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <vector>

namespace vmetal {
namespace {

std::mutex registry;  // of selectors and classes
std::unordered_map<std::string, std::unique_ptr<Selector>>& selectors() {
  static auto* all = new std::unordered_map<std::string, std::unique_ptr<Selector>>();
  return *all;
}
std::map<std::string, std::unique_ptr<Class>>& classes() {
  static auto* all = new std::map<std::string, std::unique_ptr<Class>>();
  return *all;
}

constexpr size_t kShells = 65536;
std::mutex shellsMutex;
std::deque<Object*>& shells() {
  static auto* all = new std::deque<Object*>();
  return *all;
}

thread_local std::vector<std::vector<Object*>> pools;
std::atomic<long> withoutPool{0};

std::string nameOf(const Object* o) { return o->isa ? o->isa->name : "?"; }

void check(const Object* o, const char* what) {
  if (o->magic == Object::kAlive) return;
  if (o->magic == Object::kReleased) die(std::string(what) + " to a released " + nameOf(o));
  die(std::string(what) + " to something that is not an object");
}

}  // namespace

void die(const std::string& text) {
  std::fprintf(stderr, "virtual Metal: %s\n", text.c_str());
  std::abort();
}

SEL Class::registerSelector(const char* name) {
  std::lock_guard lock(registry);
  auto& s = selectors()[name];
  if (!s) s.reset(new Selector{name});
  return s.get();
}

Class& classNamed(const char* name) {
  std::lock_guard lock(registry);
  auto& c = classes()[name];
  if (!c) {
    c.reset(new Class());
    c->name = name;
    c->isa = nullptr;  // messages to it go to its own methods
  }
  return *c;
}

void retain(Object* object) {
  if (!object) return;
  check(object, "retain");
  if (object->isa) object->references.fetch_add(1, std::memory_order_relaxed);
}

void release(Object* object) {
  if (!object) return;
  check(object, "release");
  if (!object->isa) return;  // a class
  const long before = object->references.fetch_sub(1, std::memory_order_acq_rel);
  if (before < 1) die("a " + nameOf(object) + " is released more often than retained");
  if (before > 1) return;
  object->dispose();
  object->magic = Object::kReleased;
  --object->isa->live;
  Object* oldest = nullptr;
  {
    std::lock_guard lock(shellsMutex);
    shells().push_back(object);
    if (shells().size() > kShells) {
      oldest = shells().front();
      shells().pop_front();
    }
  }
  delete oldest;
}

void autoreleaseObject(Object* object) {
  if (!object) return;
  check(object, "autorelease");
  if (pools.empty()) {
    ++withoutPool;
    std::fprintf(stderr, "virtual Metal: a %s is autoreleased with no pool in place: it leaks\n", nameOf(object).c_str());
    return;
  }
  pools.back().push_back(object);
}

namespace {
void* pushPool() {
  pools.emplace_back();
  return reinterpret_cast<void*>(pools.size());
}
void popPool(void* token) {
  const size_t depth = reinterpret_cast<size_t>(token);
  if (depth == 0 || depth > pools.size()) die("an autorelease pool is popped that is not there");
  while (pools.size() >= depth) {
    // A release may autorelease more, into the same pool.
    while (!pools.back().empty()) {
      Object* o = pools.back().back();
      pools.back().pop_back();
      release(o);
    }
    pools.pop_back();
  }
}
}  // namespace

ScopedPool::ScopedPool() : token_(pushPool()) {}
ScopedPool::~ScopedPool() { popPool(token_); }

}  // namespace vmetal

using namespace vmetal;

void vmetal::defineClasses() {
  static std::once_flag once;
  std::call_once(once, [] {
    defineFoundation();
    defineMetal();
  });
}

/** The method of a message; called by objc_msgSend. */
extern "C" __attribute__((visibility("hidden"))) Imp vmetal_find(Object* receiver, SEL selector) {
  check(receiver, ("message '" + selector->name + "'").c_str());
  const bool isClass = receiver->isa == nullptr;
  const Class* c = isClass ? static_cast<Class*>(receiver) : receiver->isa;
  const auto& methods = isClass ? c->classMethods : c->methods;
  const auto found = methods.find(selector);
  if (found == methods.end())
    die(std::string(isClass ? "+[" : "-[") + c->name + " " + selector->name + "]: unrecognized selector");
  return found->second;
}

#if defined(__x86_64__)
#define SAVE_AND_FIND(RECEIVER, SELECTOR)                                                                            \
  "  pushq %rbp\n  movq %rsp, %rbp\n  subq $0xd0, %rsp\n"                                                            \
  "  movq %rdi, 0(%rsp)\n  movq %rsi, 8(%rsp)\n  movq %rdx, 16(%rsp)\n  movq %rcx, 24(%rsp)\n  movq %r8, 32(%rsp)\n" \
  "  movq %r9, 40(%rsp)\n  movq %rax, 48(%rsp)\n"                                                                    \
  "  movaps %xmm0, 64(%rsp)\n  movaps %xmm1, 80(%rsp)\n  movaps %xmm2, 96(%rsp)\n  movaps %xmm3, 112(%rsp)\n"        \
  "  movaps %xmm4, 128(%rsp)\n  movaps %xmm5, 144(%rsp)\n  movaps %xmm6, 160(%rsp)\n  movaps %xmm7, 176(%rsp)\n"     \
  "  movq " RECEIVER ", %rdi\n  movq " SELECTOR                                                                      \
  ", %rsi\n  call vmetal_find\n  movq %rax, %r11\n"                                                                  \
  "  movq 0(%rsp), %rdi\n  movq 8(%rsp), %rsi\n  movq 16(%rsp), %rdx\n  movq 24(%rsp), %rcx\n  movq 32(%rsp), %r8\n" \
  "  movq 40(%rsp), %r9\n  movq 48(%rsp), %rax\n"                                                                    \
  "  movaps 64(%rsp), %xmm0\n  movaps 80(%rsp), %xmm1\n  movaps 96(%rsp), %xmm2\n  movaps 112(%rsp), %xmm3\n"        \
  "  movaps 128(%rsp), %xmm4\n  movaps 144(%rsp), %xmm5\n  movaps 160(%rsp), %xmm6\n  movaps 176(%rsp), %xmm7\n"     \
  "  leave\n  jmp *%r11\n"
asm(".text\n.globl objc_msgSend\n.type objc_msgSend, @function\nobjc_msgSend:\n"
    "  testq %rdi, %rdi\n  jz 1f\n" SAVE_AND_FIND("%rdi", "%rsi")
    "1:\n  xorl %eax, %eax\n  xorl %edx, %edx\n  xorps %xmm0, %xmm0\n  xorps %xmm1, %xmm1\n  ret\n.size objc_msgSend, .-objc_msgSend\n"
    // A result in memory: its address comes first. Methods defined here take the same registers, so the jump is the same.
    ".globl objc_msgSend_stret\n.type objc_msgSend_stret, @function\nobjc_msgSend_stret:\n"
    "  testq %rsi, %rsi\n  jz 1f\n" SAVE_AND_FIND("%rsi", "%rdx")
    "1:\n  movq %rdi, %rax\n  ret\n.size objc_msgSend_stret, .-objc_msgSend_stret\n");
#else
asm(".text\n.globl objc_msgSend\n.type objc_msgSend, %function\nobjc_msgSend:\n"
    "  cbz x0, 1f\n  sub sp, sp, #224\n  stp x0, x1, [sp, #0]\n  stp x2, x3, [sp, #16]\n  stp x4, x5, [sp, #32]\n"
    "  stp x6, x7, [sp, #48]\n  stp x8, x30, [sp, #64]\n  stp q0, q1, [sp, #96]\n  stp q2, q3, [sp, #128]\n"
    "  stp q4, q5, [sp, #160]\n  stp q6, q7, [sp, #192]\n  bl vmetal_find\n  mov x16, x0\n"
    "  ldp x0, x1, [sp, #0]\n  ldp x2, x3, [sp, #16]\n  ldp x4, x5, [sp, #32]\n  ldp x6, x7, [sp, #48]\n"
    "  ldp x8, x30, [sp, #64]\n  ldp q0, q1, [sp, #96]\n  ldp q2, q3, [sp, #128]\n  ldp q4, q5, [sp, #160]\n"
    "  ldp q6, q7, [sp, #192]\n  add sp, sp, #224\n  br x16\n"
    "1:\n  mov x1, #0\n  movi d0, #0\n  movi d1, #0\n  ret\n.size objc_msgSend, .-objc_msgSend\n");
#endif

extern "C" {
__attribute__((visibility("default"))) void* _NSConcreteStackBlock[32] = {};
}

EXPORT Object* objc_getClass(const char* name) {
  defineClasses();
  std::lock_guard lock(registry);
  const auto found = classes().find(name);
  return found == classes().end() ? nullptr : found->second.get();
}
EXPORT SEL sel_registerName(const char* name) { return Class::registerSelector(name); }
EXPORT Object* objc_retain(Object* o) {
  retain(o);
  return o;
}
EXPORT void objc_release(Object* o) { release(o); }
EXPORT void* objc_autoreleasePoolPush() { return pushPool(); }
EXPORT void objc_autoreleasePoolPop(void* pool) { popPool(pool); }

/** Not of Objective-C: how many objects live, and by class in words (`2 MTLBuffer, 1 MTLDevice`), into `text`. */
EXPORT long tuttiVirtualMetalLiveObjects(char* text, size_t size) {
  std::ostringstream words;
  long total = 0;
  std::lock_guard lock(registry);
  for (const auto& [name, c] : classes()) {
    const long n = c->live;
    if (n == 0) continue;
    words << (total ? ", " : "") << n << " " << name;
    total += n;
  }
  if (withoutPool) words << "; " << withoutPool << " autoreleased without a pool";
  if (text && size) std::snprintf(text, size, "%s", words.str().c_str());
  return total;
}

/** Same at the end of the process, into the file that TUTTI_VIRTUAL_METAL_LIVE names: a driver's tests cannot call it. */
__attribute__((destructor)) static void reportLiveObjects() {
  const char* path = std::getenv("TUTTI_VIRTUAL_METAL_LIVE");
  FILE* file = path ? std::fopen(path, "w") : nullptr;
  if (!file) return;
  char words[4096];
  const long total = tuttiVirtualMetalLiveObjects(words, sizeof words);
  std::fprintf(file, "%ld: %s", total, words);
  std::fclose(file);
}
