// Options are read-only objects: a call may use them without the interpreter lock.
#include "bind/bind_options.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engine/hypotheses.h"
#include "engine/options.h"

namespace py = pybind11;

namespace kserve {
namespace {

void bind_rules(py::module_& module) {
  const BeamRules defaults;
  const auto make = [](bool early_stop, double patience, double coverage_penalty) {
    return BeamRules{early_stop, patience, coverage_penalty};
  };
  py::class_<BeamRules>(module, "BeamRules", "When a beam search ends, and what its scores are made of.")
      .def(py::init(make), py::arg("early_stop") = defaults.early_stop,
           py::arg("patience") = defaults.patience, py::arg("coverage_penalty") = defaults.coverage_penalty)
      .def_readonly("early_stop", &BeamRules::early_stop,
                    "End when beam_size * patience hypotheses have ended; else when none can get better.")
      .def_readonly("patience", &BeamRules::patience)
      .def_readonly("coverage_penalty", &BeamRules::coverage_penalty);
}

void bind_constraints(py::module_& module) {
  const Constraints defaults;
  const auto make = [](std::int64_t min_length, double min_length_ratio, std::vector<std::int64_t> suppressed,
                       std::int64_t no_repeat_ngram, double repetition_penalty, std::int64_t loop_guard) {
    return Constraints{min_length,      min_length_ratio,   std::move(suppressed),
                       no_repeat_ngram, repetition_penalty, loop_guard};
  };
  py::class_<Constraints>(module, "Constraints", "What may come next in a hypothesis.")
      .def(py::init(make), py::arg("min_length") = defaults.min_length,
           py::arg("min_length_ratio") = defaults.min_length_ratio,
           py::arg("suppressed") = defaults.suppressed, py::arg("no_repeat_ngram") = defaults.no_repeat_ngram,
           py::arg("repetition_penalty") = defaults.repetition_penalty,
           py::arg("loop_guard") = defaults.loop_guard)
      .def_readonly("min_length", &Constraints::min_length, "Tokens with the end token.")
      .def_readonly("min_length_ratio", &Constraints::min_length_ratio, "The same, for each source token.")
      .def_readonly("suppressed", &Constraints::suppressed,
                    "Ids that never come; with the end token among them every length is the cap.")
      .def_readonly("no_repeat_ngram", &Constraints::no_repeat_ngram, "No such n-gram twice; 0: off.")
      .def_readonly("repetition_penalty", &Constraints::repetition_penalty,
                    "Factor of the log-probability of tokens that have come.")
      .def_readonly("loop_guard", &Constraints::loop_guard,
                    "A hypothesis ends when its last n-gram has come so often in a row; 0: off.");
}

void bind_sampling(py::module_& module) {
  const Sampling defaults;
  const auto make = [](double temperature, std::int64_t top_k, double top_p, std::uint64_t seed,
                       std::uint64_t first_sentence) {
    return Sampling{temperature, top_k, top_p, seed, first_sentence};
  };
  py::class_<Sampling>(module, "Sampling", "Draw tokens; n_best tells how many samples of a sentence.")
      .def(py::init(make), py::arg("temperature") = defaults.temperature, py::arg("top_k") = defaults.top_k,
           py::arg("top_p") = defaults.top_p, py::arg("seed") = defaults.seed,
           py::arg("first_sentence") = defaults.first_sentence)
      .def_readonly("temperature", &Sampling::temperature)
      .def_readonly("top_k", &Sampling::top_k, "Only the best k tokens; 0: all.")
      .def_readonly("top_p", &Sampling::top_p, "Only the best tokens that hold this share together.")
      .def_readonly("seed", &Sampling::seed)
      .def_readonly("first_sentence", &Sampling::first_sentence,
                    "Number of the call's first sentence; a sentence's draws depend on its number.");
}

void bind_control(py::module_& module) {
  py::class_<CancelToken, std::shared_ptr<CancelToken>>(
      module, "CancelToken", "Ends the calls that hold it within one step; cancel() from any thread.")
      .def(py::init<>())
      .def("cancel", &CancelToken::cancel)
      .def_property_readonly("cancelled", &CancelToken::cancelled);
  using OptionalToken = std::optional<std::shared_ptr<CancelToken>>;
  using OptionalCall = std::optional<std::function<void(std::int64_t, std::int32_t)>>;
  const auto make = [](OptionalToken cancel, double deadline, OptionalCall on_token) {
    return Control{cancel.value_or(nullptr), deadline, on_token.value_or(nullptr)};
  };
  py::class_<Control>(module, "Control", "How a call can end before its time.")
      .def(py::init(make), py::arg("cancel") = py::none(), py::arg("deadline") = 0.0,
           py::arg("on_token") = py::none())
      .def_property_readonly("cancel",
                             [](const Control& control) {
                               return control.cancel ? OptionalToken(control.cancel) : OptionalToken();
                             })
      .def_readonly("deadline", &Control::deadline, "Seconds from the start of the call; 0: none.");
}

void bind_options(py::module_& module) {
  const DecodingOptions defaults;
  const auto make = [](std::int64_t beam_size, std::int64_t n_best, double length_penalty,
                       std::int64_t max_length, double max_length_ratio, std::int64_t max_length_extra,
                       std::int64_t max_batch_tokens, bool shortlist, BeamRules rules,
                       Constraints constraints, std::optional<Sampling> sampling, bool attention,
                       std::int64_t attention_layer, Control control) {
    return DecodingOptions{beam_size,
                           n_best,
                           length_penalty,
                           max_length,
                           max_length_ratio,
                           max_length_extra,
                           max_batch_tokens,
                           shortlist,
                           rules,
                           std::move(constraints),
                           sampling,
                           attention,
                           attention_layer,
                           std::move(control)};
  };
  using Options = DecodingOptions;
  py::class_<Options>(module, "DecodingOptions", "How to decode; checked when a call uses them.")
      .def(py::init(make), py::arg("beam_size") = defaults.beam_size, py::arg("n_best") = defaults.n_best,
           py::arg("length_penalty") = defaults.length_penalty, py::arg("max_length") = defaults.max_length,
           py::arg("max_length_ratio") = defaults.max_length_ratio,
           py::arg("max_length_extra") = defaults.max_length_extra,
           py::arg("max_batch_tokens") = defaults.max_batch_tokens, py::arg("shortlist") = defaults.shortlist,
           py::arg_v("rules", BeamRules(), "..."), py::arg_v("constraints", Constraints(), "..."),
           py::arg("sampling") = py::none(), py::arg("attention") = defaults.attention,
           py::arg("attention_layer") = defaults.attention_layer, py::arg_v("control", Control(), "..."))
      .def_readonly("beam_size", &Options::beam_size)
      .def_readonly("n_best", &Options::n_best)
      .def_readonly("length_penalty", &Options::length_penalty)
      .def_readonly("max_length", &Options::max_length, "Tokens with the end token; 0: from the source.")
      .def_readonly("max_length_ratio", &Options::max_length_ratio)
      .def_readonly("max_length_extra", &Options::max_length_extra)
      .def_readonly("max_batch_tokens", &Options::max_batch_tokens,
                    "Source tokens times beam that are worked on together.")
      .def_readonly("shortlist", &Options::shortlist,
                    "Look only at tokens that may translate the source's, where the model has such a list.")
      .def_readonly("rules", &Options::rules)
      .def_readonly("constraints", &Options::constraints)
      .def_readonly("sampling", &Options::sampling)
      .def_readonly("attention", &Options::attention, "Keep the attention of every token.")
      .def_readonly("attention_layer", &Options::attention_layer, "Of this decoder layer; -1: the last.")
      .def_readonly("control", &Options::control);
}

// (time, source), or None.
std::optional<py::array_t<float>> attention_array(const Hypothesis& hypothesis) {
  if (hypothesis.source_tokens == 0) return std::nullopt;
  const std::size_t columns = hypothesis.source_tokens;
  return py::array_t<float>({hypothesis.attention.size() / columns, columns}, hypothesis.attention.data());
}

void bind_hypothesis(py::module_& module) {
  py::class_<Hypothesis>(module, "Hypothesis", "One translation of a sentence.")
      .def_readonly("tokens", &Hypothesis::tokens, "Without begin and end.")
      .def_readonly("score", &Hypothesis::score,
                    "log_probability / length ** length_penalty, and what other penalties were asked for.")
      .def_readonly("log_probability", &Hypothesis::log_probability)
      .def_readonly("token_log_probabilities", &Hypothesis::token_log_probabilities,
                    "One a token; the end token's is last, unless truncated.")
      .def_readonly("truncated", &Hypothesis::truncated,
                    "It has no end token: the length cap, the loop guard or the deadline came first.")
      .def_readonly("looped", &Hypothesis::looped, "The loop guard ended it.")
      .def_readonly("timed_out", &Hypothesis::timed_out, "The deadline ended it.")
      .def_property_readonly(
          "attention", &attention_array,
          "(time, source), averaged over heads, the end token's row last, unless truncated; "
          "None unless asked for.")
      .def_property_readonly(
          "alignment", &Hypothesis::alignment,
          "For each token the source position that it looked at most; empty unless attention "
          "was asked for.");
}

}  // namespace

void bind_decoding(py::module_& module) {
  bind_rules(module);
  bind_constraints(module);
  bind_sampling(module);
  bind_control(module);
  bind_options(module);
  bind_hypothesis(module);
}

}  // namespace kserve
