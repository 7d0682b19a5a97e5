// Writes logprobs of completions, chats and prompts.
#include "openai/logprob_writer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/utf8.h"

namespace h2o {
namespace {

using Json = LogprobWriter::Json;

int64_t Characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  });
}

// The logprobs of the prompt's token, or null.
const Logprobs* RowOf(const StreamEvent& event, size_t token) {
  const bool has = token > 0 && token < event.prompt_logprobs.size();
  return has ? &event.prompt_logprobs[token] : nullptr;
}

}  // namespace

double FiniteLogprob(float logprob) {
  constexpr double kLeast = -9999;
  return std::isfinite(logprob) ? logprob : kLeast;
}

std::string TokenText(const Tokenizer* tokenizer, int32_t token) {
  if (tokenizer == nullptr) return absl::StrCat("token_id:", token);
  const std::string_view bytes = tokenizer->TokenBytes(token);
  if (bytes.empty()) {
    return tokenizer->Decode({token}, /*skip_special_tokens=*/false);
  }
  if (CheckUtf8("", bytes).ok()) return std::string(bytes);
  std::string text = "bytes:";
  for (const char c : bytes) {
    absl::StrAppendFormat(&text, "\\x%02x", static_cast<unsigned char>(c));
  }
  return text;
}

std::string LogprobWriter::NameOf(int32_t token) const {
  return ask_.tokens_as_ids ? absl::StrCat("token_id:", token)
                            : TokenText(tokenizer_, token);
}

Json LogprobWriter::OfCompletion(const StreamEvent& event, bool echoes,
                                 int64_t* text_offset) const {
  if (!ask_.logprobs) return nullptr;
  Json all = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()}};
  for (size_t i = 0; echoes && i < event.prompt.size(); ++i) {
    Append(event.prompt[i], RowOf(event, i), text_offset, &all);
  }
  if (ask_.no_tokens) return all;
  for (const Logprobs& row : event.logprobs) {
    Append(row.chosen.token, &row, text_offset, &all);
  }
  return all;
}

void LogprobWriter::Append(int32_t token, const Logprobs* row,
                           int64_t* text_offset, Json* all) const {
  const std::string name = NameOf(token);
  Json logprob, top;
  if (row != nullptr) {
    logprob = FiniteLogprob(row->chosen.logprob);
    top = Json::object();
    const size_t most = std::min<size_t>(*ask_.logprobs, row->top.size());
    for (size_t i = 0; i < most; ++i) {
      top[NameOf(row->top[i].token)] = FiniteLogprob(row->top[i].logprob);
    }
    top[name] = logprob;  // the chosen one is always told
  }
  (*all)["tokens"].push_back(name);
  (*all)["token_logprobs"].push_back(std::move(logprob));
  (*all)["top_logprobs"].push_back(std::move(top));
  (*all)["text_offset"].push_back(*text_offset);
  *text_offset += Characters(name);
}

Json LogprobWriter::ChatTokenOf(const TokenLogprob& token) const {
  const std::string name = NameOf(token.token);
  std::string_view raw =
      tokenizer_ == nullptr ? "" : tokenizer_->TokenBytes(token.token);
  if (raw.empty()) raw = name;
  Json bytes = Json::array();
  for (const char c : raw) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", name},
          {"logprob", FiniteLogprob(token.logprob)},
          {"bytes", std::move(bytes)}};
}

Json LogprobWriter::OfChat(const StreamEvent& event) const {
  if (!ask_.logprobs) return nullptr;
  Json content = Json::array();
  for (const Logprobs& row : event.logprobs) {
    Json one = ChatTokenOf(row.chosen);
    Json top = Json::array();
    const size_t most = std::min<size_t>(*ask_.logprobs, row.top.size());
    for (size_t i = 0; i < most; ++i) top.push_back(ChatTokenOf(row.top[i]));
    one["top_logprobs"] = std::move(top);
    content.push_back(std::move(one));
  }
  Json all;
  all["content"] = std::move(content);
  return all;
}

Json LogprobWriter::OfPrompt(const StreamEvent& event) const {
  Json all = Json::array();
  for (size_t i = 0; i < event.prompt.size(); ++i) {
    const Logprobs* const row = RowOf(event, i);
    if (row == nullptr) {
      all.push_back(nullptr);
      continue;
    }
    Json of_token = Json::object();
    const auto add = [&](const TokenLogprob& token, Json rank) {
      Json one = {{"logprob", FiniteLogprob(token.logprob)},
                  {"rank", std::move(rank)},
                  {"decoded_token", NameOf(token.token)}};
      of_token[absl::StrCat(token.token)] = std::move(one);
    };
    add(row->chosen, nullptr);
    const size_t most =
        std::min<size_t>(ask_.prompt_logprobs.value_or(0), row->top.size());
    for (size_t rank = 0; rank < most; ++rank) add(row->top[rank], rank + 1);
    all.push_back(std::move(of_token));
  }
  return all;
}

}  // namespace h2o
