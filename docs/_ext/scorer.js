/* Ranks the results of a search: index entries first, then titles and texts of guides; names of the API and old changes last. */
var Scorer = {
  score: ([docname, , , , score, , kind]) => {
    if (/^changelog$/.test(docname)) return score / 20;
    if (kind === "object" || /^(api|errors_|glossary|first_result)/.test(docname)) return score / 4;
    return score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
