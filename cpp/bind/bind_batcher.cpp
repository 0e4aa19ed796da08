// kserve._engine.Batcher: requests in, events out. Its threads never touch Python.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bind/held_engine.h"
#include "bind/module.h"
#include "engine/batcher.h"
#include "engine/error.h"

namespace py = pybind11;

namespace kserve {
namespace {

using Event = Batcher::Event;

// Ends the threads without the interpreter lock: others may need it meanwhile.
class HeldBatcher {
 public:
  HeldBatcher(const HeldEngine& engine, std::int64_t threads) {
    if (threads < 1 || threads > 256) {
      throw OptionError("threads is " + std::to_string(threads) + ", wanted 1 to 256");
    }
    batcher_ = std::make_unique<Batcher>(engine.get(), static_cast<std::size_t>(threads));
  }
  ~HeldBatcher() { stop(); }
  HeldBatcher(const HeldBatcher&) = delete;
  HeldBatcher& operator=(const HeldBatcher&) = delete;

  Batcher& get() {
    if (!batcher_) throw OptionError("the batcher was stopped; make another one");
    return *batcher_;
  }

  void stop() {
    const py::gil_scoped_release unlocked;
    batcher_.reset();
  }

 private:
  std::unique_ptr<Batcher> batcher_;
};

std::uint64_t submit(HeldBatcher& held, std::vector<Sentence> sources, const DecodingOptions& options,
                     std::vector<Sentence> prefixes, bool tells_tokens) {
  Batcher::Submission submission{std::move(sources), std::move(prefixes), options, tells_tokens};
  submission.options.control = {};
  const py::gil_scoped_release unlocked;
  return held.get().submit(std::move(submission));
}

std::string kind_of(const Event& event) {
  switch (event.kind) {
    case Event::Kind::kToken:
      return "token";
    case Event::Kind::kSentence:
      return "sentence";
    case Event::Kind::kFailure:
      break;
  }
  return "failure";
}

void bind_events(py::module_& module) {
  py::class_<Event>(module, "BatchEvent", "Something that has happened to a request.")
      .def_property_readonly("kind", &kind_of, "'token', 'sentence' or 'failure', which ends the request.")
      .def_readonly("request", &Event::request)
      .def_readonly("sentence", &Event::sentence)
      .def_readonly("token", &Event::token)
      .def_readonly("hypotheses", &Event::hypotheses, "Of a sentence, best first.")
      .def_readonly("message", &Event::message, "Of a failure.")
      .def_readonly("queue_seconds", &Event::queue_seconds, "How long a sentence waited to be begun.");
  using Stats = Batcher::Stats;
  py::class_<Stats>(module, "BatchStats", "What happens in a batcher now, and what has happened so far.")
      .def_readonly("queued_sentences", &Stats::queued_sentences)
      .def_readonly("queued_tokens", &Stats::queued_tokens, "Source tokens that no thread has begun.")
      .def_readonly("running_sentences", &Stats::running_sentences)
      .def_readonly("running_rows", &Stats::running_rows, "Hypotheses in the last step.")
      .def_readonly("steps", &Stats::steps, "Decoder steps so far.")
      .def_readonly("rows", &Stats::rows, "Hypotheses in all of them.")
      .def_readonly("sentences", &Stats::sentences)
      .def_readonly("source_tokens", &Stats::source_tokens)
      .def_readonly("target_tokens", &Stats::target_tokens);
}

}  // namespace

void bind_batcher(py::module_& module) {
  bind_events(module);
  py::class_<HeldBatcher>(
      module, "Batcher",
      "Sentences of many requests, decoded by threads of its own; what happens is collected.")
      .def(py::init<const HeldEngine&, std::int64_t>(), py::arg("engine"), py::arg("threads"),
           py::keep_alive<1, 2>())
      .def("submit", &submit, py::arg("sources"), py::arg("options"),
           py::arg("prefixes") = std::vector<Sentence>(), py::arg("tells_tokens") = false,
           "Queues a request and returns its number. The options' control is not used.")
      .def(
          "cancel", [](HeldBatcher& held, std::uint64_t request) { held.get().cancel(request); },
          py::arg("request"), "Forgets a request: it ends within a step, and nothing more is told about it.")
      .def(
          "collect", [](HeldBatcher& held) { return held.get().collect(); },
          "What has happened since the last call, in order.")
      .def("stop", &HeldBatcher::stop, "Ends the threads within a step; what is not done is lost.")
      .def_property_readonly("stats", [](HeldBatcher& held) { return held.get().stats(); })
      .def_property_readonly(
          "descriptor", [](HeldBatcher& held) { return held.get().descriptor(); },
          "A file descriptor, readable while there is something to collect.");
}

}  // namespace kserve
