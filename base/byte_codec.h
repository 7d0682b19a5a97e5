// Structs as bytes: one field after another, in the byte order of the machine.
// The bytes carry no types, so both ends must have the same LayoutOf the
// struct.
//
// A struct takes part through a function that lists its fields:
//
//   auto Fields(Is<Point> auto& point) {
//     auto& [x, y] = point;  // compiles only if it names every field
//     return std::tie(x, y);
//   }
//
// Bytes   numbers and enums as in memory; a bool is 0 or 1; an array is its
//         elements; a vector or a string is the number of its elements, as
//         uint64, and the elements.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace h2o {

// For Fields, which is called with const structs and with others.
template <class S, class T>
concept Is = std::is_same_v<std::remove_const_t<S>, T>;

template <class T>
concept Number = std::is_arithmetic_v<T> || std::is_enum_v<T>;

// Calls `fn` with each field of `value`.
template <class T, class Fn>
void ForEachField(T& value, Fn&& fn) {
  std::apply([&](auto&... field) { (fn(field), ...); }, Fields(value));
}

class ByteWriter {
 public:
  template <Number T>
  void Put(const T& value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  template <class T>
  void Put(const T& value) {
    ForEachField(value, [this](const auto& field) { this->Put(field); });
  }
  template <class T, size_t n>
  void Put(const std::array<T, n>& values) {
    for (const T& value : values) Put(value);
  }
  template <class T>
  void Put(const std::vector<T>& values) {
    Put(uint64_t{values.size()});
    if constexpr (Number<T>) {
      bytes_.append(reinterpret_cast<const char*>(values.data()),
                    values.size() * sizeof(T));
    } else {
      for (const T& value : values) Put(value);
    }
  }
  void Put(const std::string& text) {
    Put(uint64_t{text.size()});
    bytes_ += text;
  }

  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

namespace byte_codec {

template <class T>
struct Type {};

// The fewest bytes that a T can have.
template <class T>
constexpr size_t Least(Type<T>);
constexpr size_t Least(Type<std::string>) { return sizeof(uint64_t); }
template <class T>
constexpr size_t Least(Type<std::vector<T>>) {
  return sizeof(uint64_t);
}
template <class T, size_t n>
constexpr size_t Least(Type<std::array<T, n>>) {
  return n * Least(Type<T>());
}
template <class... T>
constexpr size_t Least(Type<std::tuple<T&...>>) {
  return (Least(Type<T>()) + ...);
}
template <class T>
constexpr size_t Least(Type<T>) {
  if constexpr (Number<T>) {
    return sizeof(T);
  } else {
    return Least(Type<decltype(Fields(std::declval<T&>()))>());
  }
}

template <class T>
std::string Layout(Type<T>);
inline std::string Layout(Type<std::string>) { return "text"; }
template <class T>
std::string Layout(Type<std::vector<T>>) {
  return "[" + Layout(Type<T>()) + "]";
}
template <class T, size_t n>
std::string Layout(Type<std::array<T, n>>) {
  return std::to_string(n) + "x" + Layout(Type<T>());
}
template <class... T>
std::string Layout(Type<std::tuple<T&...>>) {
  return "{" + ((Layout(Type<T>()) + " ") + ...) + "}";
}
template <class T>
std::string Layout(Type<T>) {
  if constexpr (Number<T>) {
    const char* kind = std::is_same_v<T, bool>       ? "bool"
                       : std::is_enum_v<T>           ? "enum"
                       : std::is_floating_point_v<T> ? "float"
                       : std::is_signed_v<T>         ? "int"
                                                     : "uint";
    return kind + std::to_string(8 * sizeof(T));
  } else {
    return Layout(Type<decltype(Fields(std::declval<T&>()))>());
  }
}

}  // namespace byte_codec

// The types of all fields of T, in their order: "{uint64 [int32] text }".
template <class T>
std::string LayoutOf() {
  return byte_codec::Layout(byte_codec::Type<T>());
}

// Reads what a ByteWriter wrote.  Malformed bytes are safe to read: memory is
// allocated only for elements whose bytes are there, and after a value that is
// cut off nothing more is read.  Whole() then returns false.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : rest_(bytes) {}

  template <Number T>
  void Get(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      uint8_t byte = 0;
      Get(byte);
      fits_ = fits_ && byte <= 1;
      value = fits_ && byte == 1;
    } else {
      Take(&value, sizeof(value));
    }
  }
  template <class T>
  void Get(T& value) {
    ForEachField(value, [this](auto& field) { this->Get(field); });
  }
  template <class T, size_t n>
  void Get(std::array<T, n>& values) {
    for (T& value : values) Get(value);
  }
  template <class T>
  void Get(std::vector<T>& values) {
    constexpr size_t kLeast = byte_codec::Least(byte_codec::Type<T>());
    const uint64_t count = Count(kLeast);
    values.resize(count);
    if constexpr (Number<T>) {
      Take(values.data(), count * sizeof(T));
    } else {
      for (T& value : values) Get(value);
    }
  }
  void Get(std::string& text) {
    const uint64_t size = Count(1);
    text = rest_.substr(0, size);
    rest_.remove_prefix(size);
  }

  // Whether everything that was read was there, and nothing more.
  bool Whole() const { return fits_ && rest_.empty(); }

 private:
  // Elements of at least `least` bytes each that follow; 0 if they do not.
  uint64_t Count(size_t least) {
    uint64_t count = 0;
    Get(count);
    fits_ = fits_ && count <= rest_.size() / least;
    return fits_ ? count : 0;
  }
  void Take(void* to, size_t bytes) {
    fits_ = fits_ && bytes <= rest_.size();
    if (!fits_ || bytes == 0) return;
    std::memcpy(to, rest_.data(), bytes);
    rest_.remove_prefix(bytes);
  }

  std::string_view rest_;
  bool fits_ = true;
};

}  // namespace h2o
