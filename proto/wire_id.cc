// Hashes what both ends of the wire must have alike.
#include "proto/wire_id.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include "base/hash.h"
#include "model/step_codec.h"
#include "proto/worker.pb.h"

namespace h2o {

std::string WireId() {
  google::protobuf::FileDescriptorProto proto;
  h2oserve::worker::WorkerMessage::descriptor()->file()->CopyTo(&proto);
  return Fnv1a().AddText(proto.SerializeAsString()).AddText(StepLayout()).Hex();
}

}  // namespace h2o
