// Requests and their answers over the public interface.
#include "proto/request_proto.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;
using ::google::protobuf::util::MessageDifferencer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Everything that a client can say, each value its own.
v1::GenerateRequest FullRequest() {
  v1::GenerateRequest message;
  message.mutable_tokens()->add_ids(2);
  message.mutable_tokens()->add_ids(5);
  message.set_max_tokens(7);
  message.mutable_sampling()->set_temperature(0.5f);
  message.mutable_sampling()->set_top_k(40);
  message.mutable_sampling()->set_top_p(0.9f);
  message.mutable_sampling()->set_seed(~0ull);
  message.mutable_sampling()->set_min_p(0.1f);
  message.mutable_sampling()->set_repetition_penalty(1.5f);
  message.mutable_sampling()->set_frequency_penalty(0.25f);
  message.mutable_sampling()->set_presence_penalty(-0.5f);
  (*message.mutable_sampling()->mutable_logit_bias())[9] = 2;
  (*message.mutable_sampling()->mutable_logit_bias())[3] = -1;
  message.mutable_sampling()->set_logprobs(true);
  message.mutable_sampling()->set_top_logprobs(6);
  message.mutable_sampling()->set_prompt_logprobs(true);
  message.mutable_kv_policy()->set_name("h2o");
  message.mutable_kv_policy()->set_tokens(9);
  message.mutable_kv_policy()->set_heavy(4);
  message.mutable_kv_policy()->set_recent(5);
  message.add_stop(std::string("a"));
  message.add_stop(std::string("b"));
  message.set_ignore_eos(true);
  message.set_priority(-3);
  message.add_generated(3);
  message.add_generated(4);
  message.add_stop_token_ids(8);
  message.set_min_tokens(2);
  message.set_add_special_tokens(false);
  message.set_include_stop(true);
  return message;
}

// Expects each field of `message` to be set, but those named.
void ExpectFull(const google::protobuf::Message& message,
                const std::set<std::string>& but = {}) {
  const auto* fields = message.GetDescriptor();
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < fields->field_count(); ++i) {
    const auto* field = fields->field(i);
    if (but.contains(field->name())) continue;
    EXPECT_TRUE(field->is_repeated() ? reflection->FieldSize(message, field) > 0
                                     : reflection->HasField(message, field))
        << "the test leaves out " << field->name();
  }
}

// A field that is missing in one direction makes this fail.
TEST(RequestProto, ARequestComesBackAsItWas) {
  const v1::GenerateRequest message = FullRequest();
  ExpectFull(message, {"request_id", "text"});
  ExpectFull(message.sampling());
  const absl::StatusOr<Request> request = FromProto(message, {});
  ASSERT_TRUE(request.ok()) << request.status();
  const absl::StatusOr<v1::GenerateRequest> back = ToProto(*request);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(MessageDifferencer::Equals(*back, message))
      << back->DebugString();

  v1::GenerateRequest text;
  text.set_text("hi");
  text.mutable_kv_policy()->set_name("sink");
  text.mutable_kv_policy()->set_percent_of_prompt(25);
  text.mutable_sampling();
  EXPECT_TRUE(MessageDifferencer::Equals(*ToProto(*FromProto(text, {})), text));
}

TEST(RequestProto, WhatAClientDoesNotSayIsLeftOpen) {
  v1::GenerateRequest message;
  message.mutable_tokens()->add_ids(2);
  message.mutable_kv_policy();
  const KvPolicyRequest server = {KvPolicyName::kH2o, 40};
  Request request = FromProto(message, server).value();
  EXPECT_FALSE(request.max_tokens.has_value());
  EXPECT_FALSE(request.has_seed);
  EXPECT_FALSE(request.kv_policy.has_value());
  // A budget alone goes with the server's policy.
  message.mutable_kv_policy()->set_tokens(10);
  request = FromProto(message, server).value();
  EXPECT_EQ(request.kv_policy->name, KvPolicyName::kH2o);
  EXPECT_EQ(request.kv_policy->budget_tokens, 10);
}

TEST(RequestProto, RefusesWhatHasNoForm) {
  EXPECT_THAT(
      std::string(FromProto(v1::GenerateRequest(), {}).status().message()),
      HasSubstr("prompt is not set"));
  v1::GenerateRequest unknown = FullRequest();
  unknown.mutable_kv_policy()->set_name("lru");
  EXPECT_THAT(std::string(FromProto(unknown, {}).status().message()),
              HasSubstr("'lru'"));
  Request flexgen;
  flexgen.tokens = {2};
  flexgen.kv_policy = KvPolicyRequest{
      .name = KvPolicyName::kH2o, .budget_tokens = 5, .flexgen_prefill = true};
  EXPECT_THAT(std::string(ToProto(flexgen).status().message()),
              HasSubstr("flexgen"));
  Request traced;
  traced.tokens = {2};
  traced.trace = true;
  EXPECT_FALSE(ToProto(traced).ok());
}

TEST(RequestProto, AnEventComesBackAsItWas) {
  StreamEvent event;
  event.tokens = {5, 2};
  event.text = "hi";
  event.done = true;
  event.finish = FinishReason::kStop;
  event.usage = {1, 2, 3, 4, 5, 6, 0.5, 7, 8, 9, 10};
  event.seed = 11;
  event.logprobs = {{{5, -0.5f}, {{5, -0.5f}, {8, -2}}}, {{2, -1}, {}}};
  event.prompt_logprobs = {{}, {{4, -0.25f}, {{4, -0.25f}}}};
  event.stop_string = "x";
  v1::GenerateResponse message;
  ToProto(event, &message);
  const StreamEvent back = FromProto(message);
  EXPECT_THAT(back.tokens, ElementsAre(5, 2));
  EXPECT_EQ(back.text, "hi");
  EXPECT_TRUE(back.done);
  EXPECT_EQ(back.finish, FinishReason::kStop);
  v1::GenerateResponse again;
  ToProto(back, &again);
  EXPECT_TRUE(MessageDifferencer::Equals(again, message));
  EXPECT_EQ(back.logprobs, event.logprobs);
  EXPECT_EQ(back.prompt_logprobs, event.prompt_logprobs);
  ExpectFull(message, {"request_id"});
  ExpectFull(message.usage());

  StreamEvent more;
  more.tokens = {7};
  message.Clear();
  ToProto(more, &message);
  EXPECT_FALSE(message.has_usage());
  EXPECT_FALSE(FromProto(message).done);
}

}  // namespace
}  // namespace h2o
