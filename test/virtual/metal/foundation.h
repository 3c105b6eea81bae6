// What is needed of Foundation: strings, arrays, errors, data, URLs.
#pragma once

#include <string>
#include <vector>

#include "objc.h"

namespace vmetal {

struct String : Object {
  explicit String(std::string t) : text(std::move(t)) {}
  std::string text;
};
struct Array : Object {
  std::vector<Ref<Object>> items;
  void dispose() override { items.clear(); }
};
struct Error : Object {
  Error(std::string d, long c, std::string t) : domain(std::move(d)), code(c), text(std::move(t)) {}
  std::string domain;
  long code;
  std::string text;
};
struct Data : Object {
  std::vector<uint8_t> bytes;
};
struct Url : Object {
  explicit Url(std::string p) : path(std::move(p)) {}
  std::string path;
};

/** New objects with one reference. */
String* newString(const std::string& text);
Array* newArray(const std::vector<Object*>& items);
Data* newData(std::vector<uint8_t> bytes);

/** Sets an out-parameter, if there is one, to an autoreleased error. */
void setError(Object** out, const std::string& domain, long code, const std::string& text);
Error* newError(const std::string& domain, long code, const std::string& text);

std::string textOf(const Object* string);

/** `+new`, `setLabel:` and `respondsToSelector:`, which most classes answer. */
void defineCommon(Class& c);

}  // namespace vmetal
