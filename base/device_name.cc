// Reads the name of a device.
#include "base/device_name.h"

#include <charconv>

#include "absl/strings/str_cat.h"

namespace h2o {

absl::StatusOr<DeviceName> ParseDeviceName(std::string_view text) {
  constexpr std::string_view kNumbered = "cuda:";
  if (text == "cpu") return DeviceName{};
  if (text == "cuda") return DeviceName{.cuda = true};
  if (text.starts_with(kNumbered)) {
    DeviceName name{.cuda = true};
    const char* const end = text.data() + text.size();
    const auto [behind, error] =
        std::from_chars(text.data() + kNumbered.size(), end, name.ordinal);
    if (error == std::errc() && behind == end && name.ordinal >= 0) return name;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device '", absl::string_view(text.data(), text.size()),
                   "'; it must be cpu, cuda or cuda:N (0, 1, ...)"));
}

}  // namespace h2o
