// NSString, NSArray, NSError, NSData, NSURL and NSProcessInfo.
#include "foundation.h"

namespace vmetal {

String* newString(const std::string& text) { return make<String>(classNamed("NSString"), text); }
Array* newArray(const std::vector<Object*>& items) {
  Array* a = make<Array>(classNamed("NSArray"));
  for (Object* o : items) a->items.emplace_back(o);
  return a;
}
Data* newData(std::vector<uint8_t> bytes) {
  Data* d = make<Data>(classNamed("NSData"));
  d->bytes = std::move(bytes);
  return d;
}
Error* newError(const std::string& domain, long code, const std::string& text) {
  return make<Error>(classNamed("NSError"), domain, code, text);
}
void setError(Object** out, const std::string& domain, long code, const std::string& text) {
  if (out) *out = autoreleased(newError(domain, code, text));
}
std::string textOf(const Object* string) {
  if (!string) return "";
  const auto* s = dynamic_cast<const String*>(string);
  if (!s) die("an NSString was expected");
  return s->text;
}

void defineCommon(Class& c) {
  c.on("respondsToSelector:", [](Object* self, SEL, SEL asked) -> bool { return self->isa->methods.count(asked) > 0; });
}

}  // namespace vmetal

using namespace vmetal;

void vmetal::defineFoundation() {
  Class& string = classNamed("NSString");
  defineCommon(string);
  string.onClass(
      "stringWithUTF8String:", [](Object*, SEL, const char* text) -> Object* { return autoreleased(newString(text)); });
  string.on("UTF8String", [](String* self, SEL) -> const char* { return self->text.c_str(); });
  string.on("length", [](String* self, SEL) -> unsigned long { return self->text.size(); });

  Class& array = classNamed("NSArray");
  defineCommon(array);
  array.onClass("arrayWithObject:", [](Object*, SEL, Object* item) -> Object* {
    if (!item) die("+[NSArray arrayWithObject:]: the object is nil");
    return autoreleased(newArray({item}));
  });
  array.on("count", [](Array* self, SEL) -> unsigned long { return self->items.size(); });
  array.on("objectAtIndex:", [](Array* self, SEL, unsigned long i) -> Object* {
    if (i >= self->items.size())
      die("-[NSArray objectAtIndex:]: index " + std::to_string(i) + " is beyond the " + std::to_string(self->items.size()) +
          " objects");
    return self->items[i].get();
  });

  Class& url = classNamed("NSURL");
  defineCommon(url);
  url.onClass("fileURLWithPath:", [](Object*, SEL, Object* path) -> Object* {
    return autoreleased(make<Url>(classNamed("NSURL"), textOf(path)));
  });

  Class& error = classNamed("NSError");
  defineCommon(error);
  error.on("localizedDescription", [](Error* self, SEL) -> Object* { return autoreleased(newString(self->text)); });
  error.on("code", [](Error* self, SEL) -> long { return self->code; });
  error.on("domain", [](Error* self, SEL) -> Object* { return autoreleased(newString(self->domain)); });

  Class& data = classNamed("NSData");
  defineCommon(data);
  data.on("bytes", [](Data* self, SEL) -> const void* { return self->bytes.data(); });
  data.on("length", [](Data* self, SEL) -> unsigned long { return self->bytes.size(); });

  Class& process = classNamed("NSProcessInfo");
  defineCommon(process);
  process.onClass("processInfo", [](Object*, SEL) -> Object* {
    static Object* one = [] {
      Object* made = make<Object>(classNamed("NSProcessInfo"));
      --made->isa->live;  // lives as long as the process
      return made;
    }();
    return one;
  });
  process.on("operatingSystemVersionString",
             [](Object*, SEL) -> Object* { return autoreleased(newString("Version 14.0 (virtual)")); });
}
