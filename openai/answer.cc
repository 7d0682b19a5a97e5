// Writes chunks and whole answers of OpenAI's API.
#include "openai/answer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "openai/logprob_writer.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

// Some clients take U+2028, U+2029 and U+0085 for ends of lines.
std::string Text(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.find("\xe2\x80") == std::string::npos &&
      text.find("\xc2\x85") == std::string::npos) {
    return text;
  }
  return absl::StrReplaceAll(text, {{"\xe2\x80\xa8", "\\u2028"},
                                    {"\xe2\x80\xa9", "\\u2029"},
                                    {"\xc2\x85", "\\u0085"}});
}

int64_t SignedSeed(uint64_t seed) { return static_cast<int64_t>(seed); }

bool WasAborted(const StreamEvent& event) {
  return absl::IsCancelled(event.status) ||
         absl::IsDeadlineExceeded(event.status);
}

Json FinishOf(const StreamEvent& event) {
  if (!event.done) return nullptr;
  if (WasAborted(event)) return "abort";
  return event.finish == FinishReason::kStop ? "stop" : "length";
}

Json StopReasonOf(const StreamEvent& event) {
  if (event.stop_token) return *event.stop_token;
  if (!event.stop_string.empty()) return event.stop_string;
  return nullptr;
}

// The kept positions by layer and head, as traces have them.
Json TraceOf(const std::vector<HeadTrace>& trace) {
  Json heads = Json::array();
  for (const HeadTrace& head : trace) {
    Json one = {{"layer", head.layer}, {"head", head.head}};
    if (head.pos < 0) {
      one["kept"] = head.kept;
    } else {
      one["pos"] = head.pos;
      one["evicted"] = head.evicted < 0 ? Json(nullptr) : Json(head.evicted);
    }
    heads.push_back(std::move(one));
  }
  return heads;
}

// What came of one candidate so far, and of all together.
struct Tally {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
};

Json CountsOf(const Tally& tally) {
  return {{"prompt_tokens", tally.prompt_tokens},
          {"completion_tokens", tally.completion_tokens},
          {"total_tokens", tally.prompt_tokens + tally.completion_tokens}};
}

// Adds one candidate's to that of all.  Bytes add up; of the rest, the most is
// told.
void Merge(const Usage& usage, Usage* all) {
  const auto grow = [&](auto member) {
    all->*member = std::max(all->*member, usage.*member);
  };
  grow(&Usage::kv_slots_held);
  grow(&Usage::tokens_evicted);
  grow(&Usage::replays);
  grow(&Usage::queue_seconds);
  grow(&Usage::prefill_seconds);
  grow(&Usage::decode_seconds);
  all->kv_bytes += usage.kv_bytes;
  all->kv_bytes_full += usage.kv_bytes_full;
  if (usage.attention_mass_kept) {
    all->attention_mass_kept = std::min(all->attention_mass_kept.value_or(1.0),
                                        *usage.attention_mass_kept);
  }
}

Json KvOf(const Usage& usage, KvPolicyName policy) {
  Json kv = {{"policy", std::string(Name(policy))},
             {"slots_held", usage.kv_slots_held},
             {"tokens_evicted", usage.tokens_evicted},
             {"bytes", usage.kv_bytes},
             {"bytes_full", usage.kv_bytes_full},
             {"attention_mass_kept", nullptr},
             {"replays", usage.replays}};
  if (usage.attention_mass_kept) {
    kv["attention_mass_kept"] = *usage.attention_mass_kept;
  }
  return kv;
}

// As vLLM's, which its benchmark and guidellm read.
Json MetricsOf(const Usage& usage, int64_t tokens) {
  const double generating = usage.prefill_seconds + usage.decode_seconds;
  Json metrics = {{"time_to_first_token_ms",
                   (usage.queue_seconds + usage.prefill_seconds) * 1e3},
                  {"queue_time_ms", usage.queue_seconds * 1e3},
                  {"generation_time_ms", generating * 1e3},
                  {"mean_itl_ms", nullptr},
                  {"tokens_per_second", nullptr}};
  if (tokens > 1) {
    metrics["mean_itl_ms"] =
        usage.decode_seconds * 1e3 / static_cast<double>(tokens - 1);
  }
  if (generating > 0) {
    metrics["tokens_per_second"] = static_cast<double>(tokens) / generating;
  }
  return metrics;
}

double MeanLogprob(const StreamEvent& event) {
  double sum = 0;
  for (const Logprobs& row : event.logprobs) {
    sum += FiniteLogprob(row.chosen.logprob);
  }
  return sum / static_cast<double>(std::max<size_t>(1, event.logprobs.size()));
}

}  // namespace

class OpenAiAnswer::Writer {
 public:
  Writer(const OpenAiAsk* ask, Names names, const Tokenizer* tokenizer)
      : ask_(*ask),
        names_(std::move(names)),
        tokenizer_(tokenizer),
        logprobs_(ask, tokenizer),
        places_(ask->candidates()) {
    for (int i = 0; i < ask_.candidates(); ++i) {
      const Request& prompt = ask_.prompts[i / ask_.best_of];
      places_[i].seed =
          prompt.sampling.seed + static_cast<uint64_t>(i % ask_.best_of);
    }
    chunk_head_ = Text(Head(/*whole=*/false));
    chunk_head_.back() = ',';  // more fields follow
  }

  std::string Chunks(int candidate, const StreamEvent& event) {
    Place& place = places_[candidate];
    std::string chunks;
    if (ask_.form == OpenAiForm::kChat && !place.began) {
      chunks = ChunkOf(RoleChunk(candidate));
    }
    Take(event, &place);
    Json chunk;
    chunk["choices"] = Json::array({ChoiceOf(candidate, candidate, event)});
    chunk["seed"] = SignedSeed(places_.front().seed);
    if (ask_.continuous_usage) {
      chunk["usage"] = CountsOf(All());
    } else if (ask_.include_usage) {
      chunk["usage"] = nullptr;
    }
    if (event.done && ++num_done_ == ask_.candidates() && !ask_.include_usage) {
      AddMetrics(&chunk);
    }
    return chunks + ChunkOf(chunk);
  }

  std::string End() {
    std::string end;
    if (ask_.include_usage) {
      Json chunk;
      chunk["choices"] = Json::array();
      chunk["seed"] = SignedSeed(places_.front().seed);
      AddUsage(&chunk);
      end = ChunkOf(chunk);
    }
    return end.append(kStreamEnd);
  }

  std::string Whole(absl::Span<const StreamEvent> events) {
    Json answer = Head(/*whole=*/true);
    Json choices = Json::array();
    for (const int candidate : Chosen(events)) {
      const auto index = static_cast<int>(choices.size());
      choices.push_back(ChoiceOf(index, candidate, events[candidate]));
    }
    for (size_t i = 0; i < events.size(); ++i) {
      Take(events[i], &places_[i]);
    }
    answer["choices"] = std::move(choices);
    answer["seed"] = SignedSeed(places_.front().seed);
    AddUsage(&answer);
    return Text(answer);
  }

 private:
  // Of one candidate.
  struct Place {
    bool began = false;
    uint64_t seed = 0;
    int64_t text_offset = 0;  // characters, of the next token
    Tally tally;
    Usage usage;  // once it is done
  };

  bool is_chat() const { return ask_.form == OpenAiForm::kChat; }

  Json Head(bool whole) const {
    const char* const object = !is_chat() ? "text_completion"
                               : whole    ? "chat.completion"
                                          : "chat.completion.chunk";
    return {{"id", absl::StrCat(is_chat() ? "chatcmpl-" : "cmpl-",
                                names_.request_id)},
            {"object", object},
            {"created", names_.created},
            {"model", ask_.model}};
  }

  // An event with the fields that all chunks have and those of `rest`.
  std::string ChunkOf(const Json& rest) const {
    const std::string text = Text(rest);
    return absl::StrCat("data: ", chunk_head_, text.c_str() + 1, "\n\n");
  }

  Json RoleChunk(int index) const {
    Json chunk;
    const Json delta = {{"role", "assistant"}, {"content", ""}};
    const Json choice = {{"index", index},
                         {"delta", delta},
                         {"logprobs", nullptr},
                         {"finish_reason", nullptr}};
    chunk["choices"] = Json::array({choice});
    chunk["seed"] = SignedSeed(places_.front().seed);
    return chunk;
  }

  // The candidates that become choices, in order.
  std::vector<int> Chosen(absl::Span<const StreamEvent> events) const {
    std::vector<int> chosen;
    for (size_t prompt = 0; prompt < ask_.prompts.size(); ++prompt) {
      std::vector<int> ranked(ask_.best_of);
      for (int i = 0; i < ask_.best_of; ++i) {
        ranked[i] = static_cast<int>(prompt) * ask_.best_of + i;
      }
      if (ask_.best_of > ask_.n) {
        std::stable_sort(ranked.begin(), ranked.end(), [&](int a, int b) {
          return MeanLogprob(events[a]) > MeanLogprob(events[b]);
        });
      }
      chosen.insert(chosen.end(), ranked.begin(), ranked.begin() + ask_.n);
    }
    return chosen;
  }

  Json ChoiceOf(int index, int candidate, const StreamEvent& event) {
    Place& place = places_[candidate];
    const bool first = !std::exchange(place.began, true);
    if (event.seed) place.seed = *event.seed;
    const bool echoes = first && ask_.echo;
    std::string text = echoes ? PromptText(candidate, event) : std::string();
    if (!ask_.no_tokens) text += event.text;
    Json choice;
    choice["index"] = index;
    if (is_chat()) {
      choice[ask_.stream ? "delta" : "message"] = MessageOf(std::move(text));
    } else {
      choice["text"] = std::move(text);
    }
    choice["logprobs"] =
        is_chat() ? logprobs_.OfChat(event)
                  : logprobs_.OfCompletion(event, echoes, &place.text_offset);
    choice["finish_reason"] = FinishOf(event);
    if (event.done) choice["stop_reason"] = StopReasonOf(event);
    choice["seed"] = SignedSeed(place.seed);
    AddTokens(event, first, &choice);
    return choice;
  }

  Json MessageOf(std::string text) const {
    Json message;
    if (!ask_.stream) message["role"] = "assistant";
    message["content"] = std::move(text);
    return message;
  }

  void AddTokens(const StreamEvent& event, bool first, Json* choice) const {
    if (ask_.return_token_ids) {
      (*choice)["token_ids"] =
          ask_.no_tokens ? Json::array() : Json(event.tokens);
      if (first) (*choice)["prompt_token_ids"] = event.prompt;
    }
    if (ask_.prompt_logprobs && first) {
      (*choice)["prompt_logprobs"] = logprobs_.OfPrompt(event);
    }
    if (!event.trace.empty()) (*choice)["kv_trace"] = TraceOf(event.trace);
  }

  std::string PromptText(int candidate, const StreamEvent& event) const {
    const Request& prompt = ask_.prompts[candidate / ask_.best_of];
    if (prompt.has_text) return prompt.text;
    if (tokenizer_ == nullptr) return "";
    return tokenizer_->Decode(event.prompt, /*skip_special_tokens=*/true);
  }

  // ---- Usage

  // Prompts count once, however many choices they have.
  Tally All() const {
    Tally all;
    for (size_t i = 0; i < places_.size(); ++i) {
      if (i % ask_.best_of == 0) {
        all.prompt_tokens += places_[i].tally.prompt_tokens;
      }
      all.completion_tokens += places_[i].tally.completion_tokens;
    }
    return all;
  }

  // Counts what the event has.
  void Take(const StreamEvent& event, Place* place) const {
    if (!event.prompt.empty()) {
      place->tally.prompt_tokens = static_cast<int32_t>(event.prompt.size());
    }
    if (!ask_.no_tokens) {
      place->tally.completion_tokens +=
          static_cast<int32_t>(event.tokens.size());
    }
    if (!event.done) return;
    place->usage = event.usage;
    place->tally.prompt_tokens = event.usage.prompt_tokens;
    if (!ask_.no_tokens) {  // with those that the client had before
      place->tally.completion_tokens = event.usage.completion_tokens;
    }
  }

  Usage AllUsage() const {
    Usage all;
    for (const Place& place : places_) Merge(place.usage, &all);
    return all;
  }

  void AddUsage(Json* body) const {
    const std::optional<KvPolicyRequest>& policy =
        ask_.prompts.front().kv_policy;
    Json usage = CountsOf(All());
    usage["kv"] =
        KvOf(AllUsage(), policy ? policy->name : names_.default_policy);
    (*body)["usage"] = std::move(usage);
    AddMetrics(body);
  }

  void AddMetrics(Json* body) const {
    (*body)["metrics"] = MetricsOf(AllUsage(), All().completion_tokens);
  }

  const OpenAiAsk& ask_;
  const Names names_;
  const Tokenizer* const tokenizer_;
  const LogprobWriter logprobs_;
  std::string chunk_head_;     // the object up to its choices
  std::vector<Place> places_;  // of each candidate
  int num_done_ = 0;           // of them, in a stream
};

OpenAiAnswer::OpenAiAnswer(const OpenAiAsk* ask, Names names,
                           const Tokenizer* tokenizer)
    : writer_(std::make_unique<Writer>(ask, std::move(names), tokenizer)) {}
OpenAiAnswer::~OpenAiAnswer() = default;
std::string OpenAiAnswer::Chunks(int candidate, const StreamEvent& event) {
  return writer_->Chunks(candidate, event);
}
std::string OpenAiAnswer::End() { return writer_->End(); }
std::string OpenAiAnswer::Whole(absl::Span<const StreamEvent> events) {
  return writer_->Whole(events);
}
std::string OpenAiAnswer::BrokenEnd(const ApiError& error) {
  return ServerSentEvent(ErrorJson(error)).append(kStreamEnd);
}

std::string ServerSentEvent(const std::string& json) {
  return absl::StrCat("data: ", json, "\n\n");
}

}  // namespace h2o
