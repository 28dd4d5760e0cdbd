"""What tests look at: a concept in a report, and a page: its widths, and text without contrast."""

from pipelines.report.data import read_report
from pipelines.report.values import ConceptReport
from tests.pipelines.report.conftest import Run

WIDTHS = (390, 1200)

CONTRASTS = """
(() => {
  const rgba = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!text || element.tagName === 'title') continue;
    const style = getComputedStyle(element);
    const ink = rgba(element.tagName === 'text' ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(element.outerHTML.slice(0, 120));
  }
  return found;
})()
"""


def concept_report(run: Run, name: str) -> ConceptReport:
    report = read_report(run.store.uri, run.plan.run)
    return next(concept for concept in report.concepts if concept.name == name)
