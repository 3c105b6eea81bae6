// Opens the Objective-C runtime and Metal.

#include "runtime.h"

#include <map>
#include <mutex>

#ifndef _WIN32
#include <dlfcn.h>
#endif

namespace tutti::metal {

namespace {

#ifdef _WIN32

const Runtime* load(const std::string&) { throw Error("E_DEVICE", "Metal is part of macOS"); }

#else

void* openLibrary(const char* path, const std::string& what) {
  if (void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL)) return library;
  const char* reason = dlerror();
  throw Error("E_DEVICE", what + " cannot be loaded: " + (reason ? reason : "unknown error"));
}

/** Where functions of Objective-C and of Metal are: two libraries of the system's, or one that stands in for them. */
struct Libraries {
  void* objc;
  void* metal;
};

Libraries openLibraries(const std::string& path) {
  if (!path.empty()) {
    void* both = openLibrary(path.c_str(), "TUTTI_METAL_LIBRARY");
    return {both, both};
  }
#ifdef __APPLE__
  const Libraries system{openLibrary("/usr/lib/libobjc.A.dylib", "the Objective-C runtime"),
                         openLibrary("/System/Library/Frameworks/Metal.framework/Metal", "Metal")};
  openLibrary("/System/Library/Frameworks/Foundation.framework/Foundation", "Foundation");
  return system;
#else
  throw Error("E_DEVICE", "Metal is part of macOS");
#endif
}

const Runtime* load(const std::string& path) {
  const Libraries libraries = openLibraries(path);
  auto runtime = std::make_unique<Runtime>();
  std::string missing;
  const auto symbol = [&missing](void* library, const char* name) {
    void* address = dlsym(library, name);
    if (address == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(name);
    return address;
  };
#define TUTTI_METAL_FIND_OBJC(name, result, parameters) \
  runtime->name = reinterpret_cast<decltype(runtime->name)>(symbol(libraries.objc, #name));
#define TUTTI_METAL_FIND(name, result, parameters) \
  runtime->name = reinterpret_cast<decltype(runtime->name)>(symbol(libraries.metal, #name));
  TUTTI_METAL_RUNTIME_FUNCTIONS(TUTTI_METAL_FIND_OBJC)
  TUTTI_METAL_FUNCTIONS(TUTTI_METAL_FIND)
#undef TUTTI_METAL_FIND_OBJC
#undef TUTTI_METAL_FIND
  runtime->stackBlock = symbol(libraries.objc, "_NSConcreteStackBlock");
  void* send = symbol(libraries.objc, "objc_msgSend");
#ifdef __x86_64__
  void* sendStruct = symbol(libraries.objc, "objc_msgSend_stret");
#else
  void* sendStruct = send;
#endif
  const std::string where = path.empty() ? "Metal" : path;
  if (!missing.empty()) throw Error("E_DEVICE", where + " has no " + missing);

  const AutoreleasePool pool(*runtime);
#define TUTTI_METAL_FIND(name)                                 \
  runtime->classes.name = runtime->objc_getClass(#name);       \
  if (runtime->classes.name == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(#name);
  TUTTI_METAL_CLASSES(TUTTI_METAL_FIND)
#undef TUTTI_METAL_FIND
  if (!missing.empty()) throw Error("E_DEVICE", where + " has no class " + missing + ": macOS 11 or later is needed");
#define TUTTI_METAL_FIND(name, selector, signature) \
  runtime->send.name.bind(runtime->sel_registerName(selector), send, sendStruct);
  TUTTI_METAL_MESSAGES(TUTTI_METAL_FIND)
#undef TUTTI_METAL_FIND
  return runtime.release();
}

#endif

}  // namespace

std::string Runtime::text(id string) const {
  const char* bytes = string == nullptr ? nullptr : send.UTF8String(string);
  return bytes == nullptr ? "" : bytes;
}

std::string Runtime::words(id error) const {
  if (error == nullptr) return "no reason is given";
  std::string said = text(send.localizedDescription(error));
  while (!said.empty() && (said.back() == '\n' || said.back() == ' ')) said.pop_back();
  return said.empty() ? text(send.domain(error)) + " " + std::to_string(send.code(error)) : said;
}

const Runtime& openRuntime(const std::string& library) {
  static std::mutex mutex;
  static auto& opened = *new std::map<std::string, const Runtime*>;
  std::lock_guard lock(mutex);
  const Runtime*& runtime = opened[library];
  if (runtime == nullptr) runtime = load(library);
  return *runtime;
}

}  // namespace tutti::metal
