// Whom the CAs vouch for, remembered: a call over a connection that has made
// others before should not cost a signature's check.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "access/certificates.h"
#include "access/key_table.h"

namespace h2o {

// Threads  any.
class VouchCache {
 public:
  static constexpr size_t kMost = 1024;

  bool Vouch(const std::shared_ptr<const Issuers>& issuers,
             const std::string& chain) {
    const Sha256 hash = Sha256Of(chain);
    {
      std::lock_guard lock(mutex_);
      if (issuers != issuers_ || known_.size() >= kMost) known_.clear();
      issuers_ = issuers;
      if (const auto found = known_.find(hash); found != known_.end()) {
        return found->second;
      }
    }
    const bool vouched = issuers->Vouch(chain);
    std::lock_guard lock(mutex_);
    if (issuers == issuers_) known_[hash] = vouched;
    return vouched;
  }

 private:
  std::mutex mutex_;  // guards what follows
  std::shared_ptr<const Issuers> issuers_;
  std::map<Sha256, bool> known_;
};

}  // namespace h2o
