"use strict";
// Filters of a report. Without this script the page shows everything; the script hides, marks and sorts.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const grid = document.getElementById("cards");
  const status = document.getElementById("status");
  const measure = grid.dataset.measure;
  const kindBoxes = [...form.querySelectorAll("input[name=kinds]")];
  const signs = Object.fromEntries(kindBoxes.map((box) => [box.value, box.dataset.sign]));
  const number = (text) => (text === undefined ? null : Number(text));

  const cards = [...grid.children].map((element) => ({
    element,
    index: Number(element.dataset.index),
    line: element.querySelector(".measure"),
    value: 0,
    instances: [...element.querySelectorAll(".instance")].map((shape) => ({
      shape,
      text: shape.parentNode.querySelector(`text[data-row="${shape.dataset.row}"]`),
      kind: shape.dataset.was,
      category: shape.dataset.class,
      score: number(shape.dataset.score),
      found: number(shape.dataset.found),
      change: number(shape.dataset.change),
    })),
  }));

  const settings = () => ({
    score: form.elements.score ? Number(form.elements.score.value) : 0,
    category: form.elements.class ? form.elements.class.value : "",
    kinds: kindBoxes.filter((box) => box.checked).map((box) => box.value),
    order: form.elements.order ? form.elements.order.value : "",
  });

  // An annotation is missed if the detection that found it scores below the threshold.
  const kindNow = (item, score) =>
    item.found !== null && item.kind !== "ignored" && !(item.found >= score) ? "miss" : item.kind;

  // The measure of a card and its line of text, computed over one class and all kinds.
  const measures = {
    f1(items) {
      const count = (kind, detected) =>
        items.filter((item) => item.now === kind && (item.score !== null) === detected).length;
      const [tp, fp, miss] = [count("tp", true), count("fp", true), count("miss", false)];
      const value = tp + fp + miss ? (2 * tp) / (2 * tp + fp + miss) : 1;
      return [value, `F1 ${value.toFixed(2)}: ${tp} found, ${fp} wrong, ${miss} missed`];
    },
    change(items) {
      const changes = items.filter((item) => item.change !== null).map((item) => item.change);
      if (!changes.length) return [0, "nothing to compare"];
      const value = changes.reduce((sum, change) => sum + change, 0) / changes.length;
      const sign = value < 0 ? "\u2212" : "+";
      const noun = changes.length === 1 ? "instance" : "instances";
      return [value, `mean change ${sign}${Math.abs(value).toFixed(3)} over ${changes.length} ${noun}`];
    },
    count(items) {
      return [items.length, `${items.length} ${items.length === 1 ? "instance" : "instances"}`];
    },
  };

  const update = () => {
    const { score, category, kinds, order } = settings();
    const unfiltered = !category && kinds.length === kindBoxes.length;
    let cardsShown = 0;
    let instancesShown = 0;
    for (const card of cards) {
      const counted = [];
      let shown = 0;
      for (const item of card.instances) {
        item.now = kindNow(item, score);
        const meant = (item.score === null || item.score >= score) && (!category || item.category === category);
        const visible = meant && (!kindBoxes.length || item.now === "ignored" || kinds.includes(item.now));
        item.shape.dataset.kind = item.now;
        item.shape.toggleAttribute("hidden", !visible);
        if (item.text) {
          item.text.toggleAttribute("hidden", !visible);
          const sign = item.text.querySelector(".sign");
          if (sign) sign.textContent = signs[item.now] ? `${signs[item.now]} ` : "";
        }
        if (meant) counted.push(item);
        if (visible && item.now !== "ignored") shown += 1;
      }
      const [value, text] = measures[measure](counted);
      card.value = value;
      card.line.textContent = text;
      card.element.toggleAttribute("hidden", !shown && !unfiltered);
      if (shown || unfiltered) {
        cardsShown += 1;
        instancesShown += shown;
      }
    }
    sort(order);
    if (form.elements.score) form.elements.shown_score.value = score.toFixed(2);
    status.textContent = `Showing ${cardsShown} of ${cards.length} images, with ${instancesShown} marks`;
  };

  const sort = (order) => {
    const [key, direction] = order.split(":");
    const sign = direction === "desc" ? -1 : 1;
    const rank = (card) => (key === "measure" ? sign * card.value : 0);
    const sorted = [...cards].sort((a, b) => rank(a) - rank(b) || a.index - b.index);
    if (sorted.some((card, place) => grid.children[place] !== card.element)) {
      grid.append(...sorted.map((card) => card.element));
    }
  };

  // The address contains the settings, so that a view can be bookmarked: report.html#class=person&kinds=fp,miss
  const readAddress = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of ["score", "class", "order"]) {
      if (given.has(name) && form.elements[name]) form.elements[name].value = given.get(name);
    }
    if (given.has("kinds")) {
      const kinds = given.get("kinds").split(",");
      for (const box of kindBoxes) box.checked = kinds.includes(box.value);
    }
  };
  const writeAddress = () => {
    const { score, category, kinds, order } = settings();
    const parts = new URLSearchParams();
    if (form.elements.score) parts.set("score", score);
    if (category) parts.set("class", category);
    if (kinds.length < kindBoxes.length) parts.set("kinds", kinds.join(","));
    if (order) parts.set("order", order);
    try {
      history.replaceState(null, "", `#${parts}`);
    } catch {
      // some browsers refuse this for local files; the address then stays unchanged
    }
  };

  form.addEventListener("input", (event) => {
    const { name, checked, value } = event.target;
    if (name === "layers") grid.classList.toggle(`no-${value}`, !checked);
    else if (name === "size") grid.style.setProperty("--card", `${value}px`);
    else {
      update();
      writeAddress();
    }
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  grid.addEventListener("click", (event) => {
    const button = event.target.closest("button.enlarge");
    if (!button) return;
    const wide = button.closest(".card").classList.toggle("wide");
    button.setAttribute("aria-pressed", String(wide));
  });
  window.addEventListener("hashchange", () => {
    readAddress();
    update();
  });
  readAddress();
  update();
})();
