// Tests that texts become tokens on the threads of the encoder.
#include "coordinator/text_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/monitor.h"

namespace h2o {
namespace {

const Tokenizer* Demo() {
  static const Tokenizer* const demo =
      Tokenizer::Load("models/opt-demo", 8192).value().release();
  return demo;
}

Request Text(std::string text) {
  Request request;
  request.has_text = true;
  request.text = std::move(text);
  request.max_tokens = 3;
  return request;
}

// What an encoder gave back; its threads wait here while `held`.
struct Encoded {
  Monitor monitor;  // guards what follows
  std::map<uint64_t, absl::StatusOr<Request>> requests;
  int waiting = 0;
  bool held = false;

  TextEncoder::Encoded Callback(uint64_t id) {
    return [this, id](absl::StatusOr<Request> request) {
      Monitor::Lock lock(monitor);
      ++waiting;
      lock.Await([this] { return !held; });
      --waiting;
      requests.emplace(id, std::move(request));
    };
  }
  void Hold(bool hold) {
    Monitor::Lock lock(monitor);
    held = hold;
  }
  bool Await(const std::function<bool()>& condition) {
    Monitor::Lock lock(monitor);
    return lock.AwaitFor(30, condition);
  }
};

TEST(TextEncoder, TurnsTextsIntoTokens) {
  Encoded encoded;
  TextEncoder encoder(Demo(), 2);
  for (uint64_t id = 0; id < 50; ++id) {
    ASSERT_TRUE(
        encoder
            .Add(id, Text("number " + std::to_string(id)), encoded.Callback(id))
            .ok());
  }
  ASSERT_TRUE(encoded.Await([&] { return encoded.requests.size() == 50; }));
  for (const auto& [id, request] : encoded.requests) {
    ASSERT_TRUE(request.ok());
    EXPECT_FALSE(request->has_text);
    EXPECT_EQ(request->tokens,
              Demo()->Encode("number " + std::to_string(id)).value());
    EXPECT_EQ(request->max_tokens, 3);
  }
}

TEST(TextEncoder, SaysWhyATextHasNoTokens) {
  Encoded encoded;
  TextEncoder encoder(Demo(), 1);
  ASSERT_TRUE(encoder.Add(7, Text("a\xff"), encoded.Callback(7)).ok());
  ASSERT_TRUE(encoded.Await([&] { return encoded.requests.contains(7); }));
  EXPECT_EQ(encoded.requests.at(7).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(TextEncoder, WhatWaitsCanBeRemoved) {
  Encoded encoded;
  encoded.Hold(true);
  auto encoder = std::make_unique<TextEncoder>(Demo(), 2);
  for (uint64_t id = 0; id < 5; ++id) {
    ASSERT_TRUE(encoder->Add(id, Text("a"), encoded.Callback(id)).ok());
  }
  ASSERT_TRUE(encoded.Await([&] { return encoded.waiting == 2; }));
  encoder->Remove(3);
  encoder->Remove(0);   // too late
  encoder->Remove(99);  // never there
  encoded.Hold(false);
  ASSERT_TRUE(encoded.Await([&] { return encoded.requests.size() == 4; }));
  EXPECT_FALSE(encoded.requests.contains(3));
}

TEST(TextEncoder, WhatWaitsAtTheEndIsGivenBack) {
  Encoded encoded;
  encoded.Hold(true);
  auto encoder = std::make_unique<TextEncoder>(Demo(), 1);
  ASSERT_TRUE(encoder->Add(0, Text("a"), encoded.Callback(0)).ok());
  ASSERT_TRUE(encoded.Await([&] { return encoded.waiting == 1; }));
  ASSERT_TRUE(encoder->Add(1, Text("a"), encoded.Callback(1)).ok());
  std::thread end([&] { encoder.reset(); });
  encoded.Hold(false);
  end.join();
  EXPECT_TRUE(encoded.requests.at(0).ok());
  // The encoder may have begun with it.
  EXPECT_TRUE(encoded.requests.at(1).ok() ||
              absl::IsUnavailable(encoded.requests.at(1).status()));
}

TEST(TextEncoder, TakesNoMoreBytesThanItMayHold) {
  Encoded encoded;
  encoded.Hold(true);
  TextEncoder encoder(Demo(), 1);
  ASSERT_TRUE(encoder.Add(0, Text("a"), encoded.Callback(0)).ok());
  ASSERT_TRUE(encoded.Await([&] { return encoded.waiting == 1; }));
  const std::string half(TextEncoder::kMaxWaitingBytes / 2, ' ');
  ASSERT_TRUE(encoder.Add(1, Text(half), encoded.Callback(1)).ok());
  ASSERT_TRUE(encoder.Add(2, Text(half), encoded.Callback(2)).ok());
  EXPECT_EQ(encoder.Add(3, Text("a"), encoded.Callback(3)).code(),
            absl::StatusCode::kResourceExhausted);
  encoder.Remove(1);
  EXPECT_TRUE(encoder.Add(4, Text("a"), encoded.Callback(4)).ok());
  encoder.Remove(2);
  encoded.Hold(false);
  EXPECT_TRUE(encoded.Await([&] { return encoded.requests.contains(4); }));
}

}  // namespace
}  // namespace h2o
