// Tests where a model's chat template is found, what it sees of a request, and
// which requests are refused.
#include "chat/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

constexpr char kPlain[] =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

class ChatTemplateTest : public testing::Test {
 protected:
  ChatTemplate Load(const std::string& file = "") {
    auto loaded = ChatTemplate::Load(directory_.path(), file);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  }
  void WriteConfig(const ordered_json& config) {
    directory_.Write("tokenizer_config.json", config.dump());
  }
  static ChatRequest Ask(const std::string& messages) {
    return {.messages = ordered_json::parse(messages)};
  }
  static std::string Text(const ChatTemplate& chat,
                          const ChatRequest& request) {
    const auto text = chat.Render(request, 0);
    return text.ok() ? *text : "! " + std::string(text.status().message());
  }
  std::string Text(const ChatRequest& request) { return Text(Load(), request); }

  const ChatRequest hello_ = Ask(R"([{"role": "user", "content": "Hi"}])");
  TempDirectory directory_;
};

TEST_F(ChatTemplateTest, IsFoundInItsFileFirst) {
  WriteConfig({{"chat_template", "config"}});
  EXPECT_EQ(Text(hello_), "config");
  directory_.Write("chat_template.jinja", "file\n");
  EXPECT_EQ(Text(hello_), "file");
  const std::string flag = directory_.Write("mine.jinja", "flag");
  EXPECT_EQ(Text(Load(flag), hello_), "flag");
}

TEST_F(ChatTemplateTest, IsTheDefaultOfAList) {
  WriteConfig({{"chat_template",
                {{{"name", "tool_use"}, {"template", "tools"}},
                 {{"name", "default"}, {"template", "plain"}}}}});
  EXPECT_EQ(Text(hello_), "plain");
  WriteConfig({{"chat_template", {{{"name", "rag"}, {"template", "x"}}}}});
  EXPECT_THAT(Text(hello_), HasSubstr("\"default\""));
}

TEST_F(ChatTemplateTest, IsMissedByName) {
  const std::string why = Text(hello_);
  EXPECT_THAT(why, HasSubstr(directory_.path()));
  EXPECT_THAT(why, HasSubstr("--chat-template FILE"));
  EXPECT_FALSE(Load().fault().ok());
}

TEST_F(ChatTemplateTest, SaysWhatItDoesNotSupport) {
  directory_.Write("chat_template.jinja", "a\n{% include 'b' %}");
  EXPECT_THAT(Text(hello_), HasSubstr("line 2: statement 'include' is not"));
  // A file that was asked for must be good.
  const std::string bad = directory_.Write("bad.jinja", "{{ x | urlize }}");
  const auto loaded = ChatTemplate::Load(directory_.path(), bad);
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(loaded.status().message()),
              HasSubstr("bad.jinja: line 1: filter 'urlize'"));
  EXPECT_TRUE(absl::IsNotFound(
      ChatTemplate::Load(directory_.path(), "/no/such").status()));
}

TEST_F(ChatTemplateTest, SeesSpecialTokens) {
  directory_.Write("chat_template.jinja", "{{ bos_token }}|{{ eos_token }}");
  WriteConfig({{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}});
  EXPECT_EQ(Text(hello_), "<s>|</s>");
  directory_.Write("special_tokens_map.json", R"({"bos_token": "<b>"})");
  EXPECT_EQ(Text(hello_), "<b>|</s>");
  WriteConfig({{"bos_token", nullptr},
               {"added_tokens_decoder", ordered_json::object()}});
  EXPECT_EQ(Text(hello_), "|");
}

TEST_F(ChatTemplateTest, SeesTheRequest) {
  WriteConfig({{"chat_template", kPlain}, {"eos_token", "</s>"}});
  EXPECT_EQ(Text(hello_), "<user>Hi</s><assistant>");
  ChatRequest request = hello_;
  request.add_generation_prompt = false;
  EXPECT_EQ(Text(request), "<user>Hi</s>");
  request.kwargs = {{"eos_token", "!"}};
  EXPECT_EQ(Text(request), "<user>Hi!");
  request.kwargs = {{"messages", 1}};
  EXPECT_THAT(Text(request), HasSubstr("must not have \"messages\""));
}

TEST_F(ChatTemplateTest, GoesOnWithTheLastMessage) {
  directory_.Write("chat_template.jinja", kPlain);
  ChatRequest request = Ask(R"([{"role": "user", "content": "1, 2"},
                                {"role": "assistant", "content": "3, "}])");
  request.continue_final_message = true;
  EXPECT_THAT(Text(request), HasSubstr("exclude each other"));
  request.add_generation_prompt = false;
  EXPECT_EQ(Text(request), "<user>1, 2<assistant>3, ");
  directory_.Write("chat_template.jinja",
                   "{% for m in messages %}[{{ m.content | trim }}]"
                   "{% endfor %}");
  EXPECT_EQ(Text(request), "[1, 2][3,");
  directory_.Write("chat_template.jinja", "{{ messages[0].content }}");
  EXPECT_THAT(Text(request), HasSubstr("does not write the last message"));
}

TEST_F(ChatTemplateTest, TakesContentsInParts) {
  const ChatRequest request = Ask(R"([{"role": "user", "content": [
      {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "user", "content": "c"}])");
  directory_.Write("chat_template.jinja", kPlain);
  EXPECT_EQ(Text(request), "<user>a\nb<user>c<assistant>");
  directory_.Write("chat_template.jinja",
                   "{% for m in messages %}{% for part in m['content'] %}"
                   "({{ part.text }}){% endfor %}{% endfor %}");
  EXPECT_EQ(Text(request), "(a)(b)(c)");
  directory_.Write("chat_template.jinja",
                   "{% for m in messages %}{% if m.content is string %}"
                   "{{ m.content }}{% else %}{% for part in m.content %}"
                   "({{ part.text }}){% endfor %}{% endif %}{% endfor %}");
  EXPECT_EQ(Text(request), "(a)(b)c");
}

TEST_F(ChatTemplateTest, RefusesWhatIsNoConversation) {
  directory_.Write("chat_template.jinja", kPlain);
  const std::pair<const char*, const char*> kCases[] = {
      {"{}", "messages must be a list"},
      {"[]", "messages must be a list"},
      {"[1]", "messages[0] must be an object"},
      {R"([{"content": "x"}])", "messages[0] must have a \"role\""},
      {R"([{"role": "user", "content": 1}])", "messages[0].content must be"},
      {R"([{"role": "user", "content": ["x"]}])",
       "messages[0].content[0] must"},
      {R"([{"role": "user", "content": [{"type": "image_url"}]}])",
       "messages[0].content[0] has the type \"image_url\"; only \"text\""},
  };
  for (const auto& [messages, why] : kCases) {
    EXPECT_THAT(Text(Ask(messages)), HasSubstr(why)) << messages;
  }
}

TEST_F(ChatTemplateTest, GivesTheTemplatesOwnWords) {
  directory_.Write("chat_template.jinja",
                   "{{ raise_exception('no system role') }}");
  EXPECT_EQ(Text(hello_), "! no system role");
  directory_.Write("chat_template.jinja", "\n{{ messages[7].role }}");
  EXPECT_EQ(Text(hello_), "! chat template: line 2: 'an item' is undefined");
}

}  // namespace
}  // namespace h2o
