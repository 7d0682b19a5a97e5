// Loads, checks and watches the files of TLS.
#include "access/tls_files.h"

#include <ctime>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

std::vector<std::string> FilesOf(const TlsPaths& paths) {
  std::vector<std::string> files;
  for (const std::string& path :
       {paths.certificate, paths.key, paths.peer_ca, paths.worker_ca}) {
    if (!path.empty()) files.push_back(path);
  }
  return files;
}

absl::Status Named(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(path, ": ", status.message()));
}

absl::Status TakeIssuers(const std::string& path, const std::string& pem,
                         std::shared_ptr<const Issuers>* issuers) {
  auto parsed = Issuers::Parse(pem);
  if (!parsed.ok()) return Named(path, parsed.status());
  *issuers = *std::move(parsed);
  return absl::OkStatus();
}

// `contents`: of FilesOf(paths).
absl::StatusOr<TlsState> StateOf(const TlsPaths& paths,
                                 const FileWatch::Contents& contents) {
  TlsState state;
  size_t next = 0;
  for (const auto& [path, text] :
       {std::pair(&paths.certificate, &state.chain),
        std::pair(&paths.key, &state.key),
        std::pair(&paths.peer_ca, &state.peer_roots),
        std::pair(&paths.worker_ca, &state.worker_roots)}) {
    if (path->empty()) continue;
    H2O_RETURN_IF_ERROR(contents[next].status());
    *text = *contents[next++];
  }
  if (!paths.certificate.empty()) {
    const absl::StatusOr<int64_t> expires =
        CheckCertificate(state.chain, state.key, time(nullptr));
    if (!expires.ok()) return Named(paths.certificate, expires.status());
    state.expires = *expires;
  }
  if (!paths.peer_ca.empty()) {
    H2O_RETURN_IF_ERROR(
        TakeIssuers(paths.peer_ca, state.peer_roots, &state.peer_ca));
  }
  if (!paths.worker_ca.empty()) {
    H2O_RETURN_IF_ERROR(
        TakeIssuers(paths.worker_ca, state.worker_roots, &state.worker_ca));
  }
  return state;
}

}  // namespace

TlsFiles::TlsFiles(const TlsPaths& paths, double look_again_seconds)
    : files_(FilesOf(paths)),
      paths_(paths),
      look_again_seconds_(look_again_seconds) {}

absl::StatusOr<std::unique_ptr<TlsFiles>> TlsFiles::Load(
    const TlsPaths& paths, double look_again_seconds) {
  std::unique_ptr<TlsFiles> files(new TlsFiles(paths, look_again_seconds));
  files->seen_ = FileWatch::Read(files->files_);
  H2O_ASSIGN_OR_RETURN(TlsState state, StateOf(paths, files->seen_));
  files->state_ = std::make_shared<const TlsState>(std::move(state));
  return files;
}

std::shared_ptr<const TlsState> TlsFiles::state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

void TlsFiles::Watch(OnChange on_change) {
  on_change_ = std::move(on_change);
  watch_ = std::make_unique<FileWatch>(
      files_, std::exchange(seen_, {}),
      [this](const FileWatch::Contents& contents) { Replace(contents); },
      look_again_seconds_);
}

void TlsFiles::Replace(const FileWatch::Contents& contents) {
  absl::StatusOr<TlsState> state = StateOf(paths_, contents);
  if (!state.ok()) {
    H2O_LOG(LogLevel::kError) << "certificates: " << state.status().message()
                              << "; the old ones stay in use";
    return;
  }
  H2O_LOG() << "certificates have changed: " << absl::StrJoin(files_, ", ");
  auto next = std::make_shared<const TlsState>(*std::move(state));
  {
    std::lock_guard lock(mutex_);
    state_ = next;
  }
  on_change_(*next);
}

}  // namespace h2o
