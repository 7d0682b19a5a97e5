// Writes the answers of a batch to a file, and finds those of an earlier run.
#include "clients/answer_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/new_file.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

// Writes all of `bytes`; the errno of a fault, or 0.
int WriteAll(int fd, const std::string& bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t n = write(fd, bytes.data() + at, bytes.size() - at);
    if (n < 0 && errno != EINTR) return errno;
    if (n > 0) at += n;
  }
  return 0;
}

}  // namespace

absl::StatusOr<AnswerFile> AnswerFile::Open(const std::string& path,
                                            bool resume, size_t num_prompts) {
  AnswerFile file;
  file.path_ = path;
  if (resume) H2O_RETURN_IF_ERROR(file.ReadEarlier(num_prompts));
  file.fd_ = UniqueFd(
      open(path.c_str(),
           O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND | (resume ? 0 : O_TRUNC),
           0666));
  if (file.fd_.get() < 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  }
  return file;
}

absl::Status AnswerFile::ReadEarlier(size_t num_prompts) {
  lines_.resize(num_prompts);
  std::ifstream file(path_);
  size_t whole_bytes = 0;  // of lines with their ends
  int number = 1;
  for (std::string line; std::getline(file, line) && !file.eof(); ++number) {
    whole_bytes += line.size() + 1;
    if (line.empty()) continue;
    const auto answer = nlohmann::json::parse(line, nullptr, false);
    const auto index = answer.is_object() ? answer.find("index") : answer.end();
    if (index == answer.end() || !index->is_number_unsigned()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ":", number,
                       " is no answer of an earlier run; --resume goes on with "
                       "a file that --output has begun"));
    }
    if (index->get<uint64_t>() >= num_prompts) {
      return absl::InvalidArgumentError(absl::StrCat(
          path_, ":", number, " answers prompt ", index->get<uint64_t>(),
          ", but the input has ", num_prompts,
          " prompts; give the input and the output of one run"));
    }
    if (!answer.contains("error")) lines_[index->get<uint64_t>()] = line;
  }
  // What is behind them was cut off.
  if (number > 1 && truncate(path_.c_str(), whole_bytes) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot write ", path_, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

void AnswerFile::Append(size_t i, const std::string& line) {
  if (fault_ == 0) fault_ = WriteAll(fd_.get(), line + "\n");
  if (!lines_.empty()) lines_[i] = line;
}

absl::Status AnswerFile::Close() {
  // A device has nothing to force.
  if (fault_ == 0 && fsync(fd_.get()) != 0 && errno != EINVAL) fault_ = errno;
  fd_ = UniqueFd();
  if (fault_ != 0) {
    return absl::DataLossError(absl::StrCat("cannot write all of ", path_, ": ",
                                            std::strerror(fault_)));
  }
  return lines_.empty() ? absl::OkStatus() : WriteInOrder();
}

absl::Status AnswerFile::WriteInOrder() const {
  H2O_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path_));
  for (const std::string& line : lines_) {
    if (!line.empty()) file.Append(line + "\n");
  }
  return file.Commit();
}

}  // namespace h2o
