"""A form as a Markdown page, shaped and worded like the user's template "Especificação de Integração com API".

The numbers of the sections are the template's. What the template asks of the code (flow, tests, libraries, checklist)
is the same for every integration and stands in the project's documentation.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from config.policy import ErrorRule, FieldRule, Operation, Spec
from config.spec_sections import Alert, Credentials

_CRITICALITY = {"critical": "Crítica", "high": "Alta", "medium": "Média", "low": "Baixa"}
_KINDS = {
    "rest": "REST API", "graphql": "GraphQL", "soap": "SOAP", "webhook": "Webhook", "websocket": "WebSocket",
    "grpc": "gRPC", "file": "File-based (CSV, XML, etc)", "smtp": "SMTP",
}  # fmt: skip
_VERDICTS = {
    "success": "Processar response",
    "retryable": "Tentar de novo",
    "permanent": "Não repetir",
    "ambiguous": "Conferir antes de repetir",
}
_SPENT = {"park": "Fila de retry (PostgreSQL)", "dead": "Carta morta", "hold": "Conta retida + alerta"}


def form_page(spec: Spec) -> str:
    """Return the page."""
    parts = (
        _head(spec), _overview(spec), _api(spec), _endpoints(spec), _flow(), _errors(spec), _cache(spec),
        _watching(spec), _security(spec), _tests(), _dependencies(spec), _rollout(spec), _contacts(spec), _checklist(),
        _changes(spec),
    )  # fmt: skip
    return "\n\n---\n\n".join("\n\n".join(part) for part in parts) + "\n"


def _head(spec: Spec) -> Iterable[str]:
    yield "# Especificação de Integração com API"
    yield "\n".join((
        f"**Sistema:** {spec.system}  ", f"**Versão:** {spec.version}  ", f"**Responsável:** {spec.owner}  ",
        f"**Última Atualização:** {spec.updated.isoformat()}",
    ))  # fmt: skip


def _overview(spec: Spec) -> Iterable[str]:
    yield "## 1. Visão Geral"
    yield f"### 1.1 Objetivo da Integração\n\n{spec.overview.objective}"
    yield f"### 1.2 Criticidade\n\n{_boxes(_CRITICALITY.values(), _CRITICALITY[spec.overview.criticality])}"
    yield f"### 1.3 Tipo de Integração\n\n{_boxes(_KINDS.values(), _KINDS[spec.overview.kind])}"


def _api(spec: Spec) -> Iterable[str]:
    yield "## 2. Informações da API"
    rows = [(name.capitalize(), f"`{url}`") for name, url in spec.base_urls.items()]
    yield "### 2.1 Endpoint Base\n\n" + _table(("Ambiente", "URL"), rows)
    documents = spec.documentation
    named = (
        ("Link da documentação oficial", documents.official), ("Swagger/OpenAPI", documents.openapi),
        ("Postman Collection", documents.postman), ("Portal do desenvolvedor", documents.portal),
    )  # fmt: skip
    yield "### 2.2 Documentação\n\n" + "\n".join(f"- **{name}:** {url or 'não há'}" for name, url in named)
    ways = (spec.authentication, *spec.authentication.alternatives)
    yield "### 2.3 Autenticação\n\n" + "\n\n".join(_credentials(each) for each in ways)
    yield "### 2.4 Rate Limits\n\n" + _limits(spec)


def _credentials(way: Credentials) -> str:
    facts = (
        ("Tipo", way.type), ("Header/Parameter", way.header), ("Formato", way.format),
        ("Token Endpoint", way.token_url or way.token_path), ("Scope", way.scope),
        ("Validade", way.token_life and _span(way.token_life)),
        ("Renovação", way.renewal and f"automática, até {_span(way.renewal.longest)} antes da expiração"),
        *((name, f"[VARIÁVEL DE AMBIENTE: {variable}]") for name, variable in way.variables.items()),
    )  # fmt: skip
    return "```yaml\n" + "\n".join(f"{name}: {value}" for name, value in facts if value) + "\n```"


def _limits(spec: Spec) -> str:
    limits = spec.limits
    rows = [(f"A cada {_span(each.every)}", each.calls) for each in limits.windows()]
    rows += [(f"Por destinatário, a cada {_span(each.every)}", each.calls) for each in limits.per_recipient]
    rows += [("Concurrent", limits.concurrent)] if limits.concurrent else []
    signals = ", ".join(limits.on_excess.signals)
    return (
        _table(("Limite", "Valor"), rows or [("nenhum declarado", "")])
        + f"\n\n**Comportamento ao exceder:** {signals}\n\n**Estratégia de retry:** {limits.on_excess.strategy}"
    )


def _endpoints(spec: Spec) -> Iterable[str]:
    yield "## 3. Endpoints Utilizados"
    for n, (kind, operation) in enumerate(spec.operations.items(), 1):
        yield from _endpoint(f"3.{n} {kind}", operation)


def _endpoint(title: str, operation: Operation) -> Iterable[str]:
    yield f"### {title}\n\n#### Propósito\n\n{operation.purpose}"
    yield f"#### Método e Path\n\n```http\n{operation.method} {operation.path}\n```"
    if operation.headers:
        yield "#### Headers\n\n```http\n" + "\n".join(f"{k}: {v}" for k, v in operation.headers.items()) + "\n```"
    rows = [_field_row(name, rule) for name, rule in operation.fields.items()]
    yield "#### Request Body\n\n" + _table(("Campo", "Tipo", "Obrigatório", "Máximo", "Formato", "Padrão"), rows)
    yield f"#### Response Success\n\nO id do provedor vem em `{operation.success_id}`."
    statuses = [
        (status, rule.meaning, f"{_VERDICTS[rule.verdict]} (`{rule.code}`)")
        for status, rule in operation.statuses.items()
    ]
    yield "#### Códigos de Status\n\n" + _table(("Código", "Significado", "Ação"), statuses)
    waits = operation.timeouts
    yield (
        "#### Timeouts e repetição\n\n"
        f"Conexão {waits.connect_s:g} s, silêncio {waits.read_s:g} s, total {waits.total_s:g} s. "
        f"Idempotente: {'sim' if operation.idempotent else 'não'}. "
        f"Sem resposta e sem prova: `{operation.on_uncertain}`."
    )


def _field_row(name: str, rule: FieldRule) -> Sequence[object]:
    most = rule.max_length or rule.max_items or ""
    form = ", ".join(rule.enum or ()) or rule.format or rule.about or ""
    needed = "sim" if rule.required else "não"
    return (f"`{name}`", rule.type, needed, most, form, "" if rule.default is None else rule.default)


def _flow() -> Iterable[str]:
    yield "## 4. Fluxo de Integração"
    yield "O fluxo é o do motor de entregas, igual para todas as integrações: ver `docs/guarantees.md`."


def _errors(spec: Spec) -> Iterable[str]:
    yield "## 5. Tratamento de Erros"
    rows = [_error_row(code, rule) for code, rule in spec.errors.items()]
    yield "### 5.1 Estratégia por Tipo de Erro\n\n" + _table(("Erro", "Retry?", "Espera", "Fallback", "Alerta"), rows)
    breaker = spec.breaker
    yield (
        "### 5.2 Circuit Breaker\n\n```yaml\n"
        f"Failure Threshold: {breaker.failure_ratio:.0%} (em janela de {_span(breaker.window)})\n"
        f"Open Duration: {_span(breaker.open_for)}\nHalf-Open Requests: {breaker.trials}\n"
        f"Recovery Threshold: {breaker.close_ratio:.0%} sucesso\nMinimum Calls: {breaker.minimum_calls}\n```"
    )
    waits = ", ".join(_span(each) for each in spec.parking)
    yield (
        f"### 5.3 Fallback Strategy\n\nFila em PostgreSQL: {waits}; depois de {_span(spec.expires_after)}, "
        f"carta morta. Resposta ao usuário: “{spec.fallback.answer.pt}”."
    )


def _error_row(code: str, rule: ErrorRule) -> Sequence[object]:
    wait = f"{rule.wait.shape}, {_span(rule.wait.first)} a {_span(rule.wait.longest)}" if rule.retries else ""
    return (
        f"`{code}`",
        f"Sim ({rule.retries}x)" if rule.retries else "Não",
        wait,
        _SPENT[rule.spent],
        rule.alert or "",
    )


def _cache(spec: Spec) -> Iterable[str]:
    cache = spec.cache
    yield "## 6. Cache Strategy"
    yield (
        f"### 6.1 O que cachear?\n\n{', '.join(cache.cached) or 'Nenhum caching necessário'}\n\n"
        f"### 6.2 Configuração\n\n```yaml\nCache Backend: {cache.backend}\nTTL Default: {_span(cache.ttl)}\n"
        f"Cache Keys Pattern: {cache.key_pattern}\nMax Size: {cache.most_entries} entradas\n```"
    )


def _watching(spec: Spec) -> Iterable[str]:
    metrics = spec.metrics
    yield "## 7. Monitoramento e Observabilidade"
    yield f"### 7.1 Métricas\n\nTécnicas: {', '.join(metrics.technical)}. De negócio: {', '.join(metrics.business)}."
    yield f"### 7.2 Logs\n\nCampos: {', '.join(f'`{each}`' for each in metrics.log_fields)}."
    rows = [(name, _condition(each), each.severity, each.action) for name, each in spec.alerts.items()]
    yield "### 7.3 Alertas\n\n" + _table(("Alerta", "Condição", "Severidade", "Ação"), rows)


def _condition(alert: Alert) -> str:
    return f"{alert.measure} > {alert.above:g}" + (f" por {_span(alert.during)}" if alert.during else "")


def _security(spec: Spec) -> Iterable[str]:
    yield "## 8. Segurança"
    yield f"### 8.1 Dados Sensíveis\n\nNunca em logs: {', '.join(f'`{each}`' for each in spec.redaction.fields)}."
    yield f"### 8.2 Credenciais\n\nArmazenamento: {spec.security.credentials}. Rotação: {spec.security.rotation}."
    yield f"### 8.3 Comunicação\n\nTLS {spec.security.minimum_tls} ou superior; certificado sempre validado."


def _tests() -> Iterable[str]:
    yield "## 9. Testes"
    yield "Os casos de teste estão em `tests/`; os cinco do modelo, em `tests/e2e/test_e2e_template_cases.py`."


def _dependencies(spec: Spec) -> Iterable[str]:
    yield "## 10. Dependências"
    yield "### 10.1 Bibliotecas\n\nVer `pyproject.toml`."
    yield "### 10.2 Configuração\n\nVariáveis de ambiente:\n\n" + "\n".join(f"- `{each}`" for each in spec.variables)


def _rollout(spec: Spec) -> Iterable[str]:
    rollout = spec.rollout
    yield "## 11. Rollout Plan"
    shares = ", ".join(f"{each:.0%}" for each in rollout.shares)
    yield f"### 11.1 Fases\n\n{shares} do tráfego, cada fase por {_span(rollout.hold)}."
    yield (
        f"### 11.2 Rollback Plan\n\nError rate > {rollout.rollback.error_ratio_above:.0%} "
        f"ou response time p95 > {_span(rollout.rollback.p95_above)}, a partir de {rollout.rollback.minimum_calls} "
        "chamadas na fase."
    )


def _contacts(spec: Spec) -> Iterable[str]:
    yield "## 12. Contatos e Suporte"
    yield _table(("Papel", "Contato"), [(each.role, each.reach) for each in spec.contacts])


def _checklist() -> Iterable[str]:
    yield "## 13. Checklist de Implementação"
    yield "`entrega spec check` confere a ficha; `entrega doctor`, as credenciais e o acesso."


def _changes(spec: Spec) -> Iterable[str]:
    yield "## 14. Changelog"
    rows = [(each.version, each.date.isoformat(), each.author, each.change) for each in spec.change_log]
    yield _table(("Versão", "Data", "Autor", "Mudanças"), rows)


def _boxes(all_of_them: Iterable[str], chosen: str) -> str:
    return "\n".join(f"- [{'x' if each == chosen else ' '}] {each}" for each in all_of_them)


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = (titles, ["---"] * len(titles), *rows)
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _span(value: timedelta) -> str:
    """Return a duration in its largest whole unit, e.g. "2 h"."""
    seconds = value.total_seconds()
    units = ((86400, "d"), (3600, "h"), (60, "min"))
    size, unit = next((each for each in units if seconds >= each[0] and seconds % each[0] == 0), (1, "s"))
    return f"{seconds / size:g} {unit}"
