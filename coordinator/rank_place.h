// Where a rank runs.
#pragma once

#include <cstdint>
#include <string>

namespace h2o {

struct RankPlace {
  std::string device;   // cpu, cuda:0
  std::string address;  // of its mesh socket, HOST:PORT
  int64_t pid = 0;
};

}  // namespace h2o
