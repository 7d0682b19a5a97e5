// Writes logprobs in the shapes that OpenAI's API has for them.  Only for the
// .cc files of this folder.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "api/request.h"
#include "model/tokenizer.h"
#include "openai/ask.h"

namespace h2o {

// JSON has no infinities: the least logprob is -9999.
double FiniteLogprob(float logprob);

// The text of one token for people: what it adds to a text, "bytes:\xe2\x82"
// for a part of a character, the name of a special token.
std::string TokenText(const Tokenizer* tokenizer, int32_t token);

// Threads  as a const object.
class LogprobWriter {
 public:
  using Json = nlohmann::ordered_json;

  // `tokenizer` may be null; both outlive this.
  LogprobWriter(const OpenAiAsk* ask, const Tokenizer* tokenizer)
      : ask_(*ask), tokenizer_(tokenizer) {}

  // {tokens, token_logprobs, top_logprobs, text_offset}, or null if none are
  // asked for.  With `echoes`, the prompt's tokens are in front; the first has
  // no logprob.  `text_offset`: characters in front of the event, which its own
  // are added to.
  Json OfCompletion(const StreamEvent& event, bool echoes,
                    int64_t* text_offset) const;
  // {content: [{token, logprob, bytes, top_logprobs}]}, or null.
  Json OfChat(const StreamEvent& event) const;
  // vLLM's: of each token of the prompt {"id": {logprob, rank, decoded_token}},
  // of the first null.  The rank is null where it is not among the likeliest.
  Json OfPrompt(const StreamEvent& event) const;

 private:
  std::string NameOf(int32_t token) const;
  // `row`: null: the token has none.
  void Append(int32_t token, const Logprobs* row, int64_t* text_offset,
              Json* all) const;
  Json ChatTokenOf(const TokenLogprob& token) const;

  const OpenAiAsk& ask_;
  const Tokenizer* const tokenizer_;
};

}  // namespace h2o
