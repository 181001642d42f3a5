"""Where callbacks may go. Cases after PayloadsAllTheThings and SSRF-Testing, their forms only."""

from ipaddress import ip_address

import pytest

from delivery.destinations import host_of, is_public, may_connect, url_issue

PUBLIC = ["93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450:4001::1"]
REFUSED = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],  # noqa: S104 - refused, not bound
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12:3456::1"],
    "link-local": ["169.254.0.1", "fe80::1", "fe80::1%eth0"],
    "metadata": ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"],
    "shared": ["100.64.0.1", "100.127.255.255"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1"],
    "6to4 relay": ["192.88.99.1"],
    "site-local": ["fec0::1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:93.184.216.34"],
    "compatible": ["::127.0.0.1", "::7f00:1", "::10.0.0.1"],
    "translated": ["::ffff:0:127.0.0.1"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::"],
    "Teredo": ["2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001::1"],
    "ORCHID": ["2001:10::1", "2001:20::1"],
    "documentation": ["2001:db8::1", "3fff::1"],
    "6bone": ["3ffe::1"],
    "discard": ["100::1"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize(("form", "address"), [(form, each) for form, some in REFUSED.items() for each in some])
def test_statement_09_every_other_form_of_address_is_refused(form, address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    ("address", "scheme", "sandbox", "allowed"),
    [
        ("1.1.1.1", "https", False, True),
        ("1.1.1.1", "http", False, False),
        ("1.1.1.1", "https", True, True),
        ("1.1.1.1", "http", True, False),
        ("127.0.0.1", "http", True, True),
        ("::1", "http", True, True),
        ("127.0.0.1", "https", False, False),
        ("10.0.0.1", "http", True, False),
        ("169.254.169.254", "http", True, False),
    ],
)
def test_plain_http_goes_to_this_machine_and_only_in_the_sandbox(address, scheme, sandbox, allowed):
    assert may_connect(ip_address(address), scheme, sandbox=sandbox) is allowed


@pytest.mark.parametrize(
    "url",
    [
        "https://loja.exemplo.com.br/retorno",
        "https://loja.exemplo.com.br:8443/retorno?token=a%20b&c=d",
        "https://LOJA.exemplo.com.br./",
        "https://xn--caf-dma.exemplo.com.br/",
        "https://93.184.216.34/",
        "https://[2606:4700:4700::1111]/",
        "https://1.1.1.1.exemplo.com.br/",
    ],
)
def test_a_public_https_url_is_accepted(url):
    assert url_issue(url, sandbox=False) is None


@pytest.mark.parametrize(
    ("url", "issue"),
    [
        ("http://loja.exemplo.com.br/", "callback_https"),
        ("https://loja.exemplo.com.br:22/", "callback_port:443, 8443"),
        ("https://loja.exemplo.com.br:8080/", "callback_port:443, 8443"),
        ("https://exemplo.com.br/" + "a" * 2000, "callback_long:2000"),
        *[
            (url, "callback_url")
            for url in [
                "",
                "loja.exemplo.com.br",
                "//loja.exemplo.com.br/",
                "https://",
                "https:///caminho",
                "ftp://loja.exemplo.com.br/",
                "file:///etc/passwd",
                "gopher://loja.exemplo.com.br/",
                "data:text/plain,oi",
                "unix:///var/run/docker.sock",
                "https://ana:senha@loja.exemplo.com.br/",
                "https://loja.exemplo.com.br@127.0.0.1/",
                "https://127.0.0.1:80\\@loja.exemplo.com.br/",
                "https://loja.exemplo.com.br\\@127.0.0.1/",
                "https://loja.exemplo.com.br%2523@127.0.0.1/",
                "https://loj%61.exemplo.com.br/",
                "https://loja.exemplo.com.br/#fragmento",
                "https://loja.exemplo.com.br /",
                " https://loja.exemplo.com.br/",
                "https://loja.exemplo.com.br/\r\nHost: 127.0.0.1",
                "https://loja.exemplo.com.br/\x00",
                "https://lojá.exemplo.com.br/",
                "https://①②⑦.⓪.⓪.①/",
                "https://127。0。0。1/",
                "https://loja.exemplo.com.br:/",
                "https://loja.exemplo.com.br:99999/",
                "https://[::1",
                "https://[fe80::1%25eth0]/",
                "https://[v1.fe80]/",
            ]
        ],
        *[
            (url, "callback_private")
            for url in [
                "https://localhost/",
                "https://localhost./",
                "https://api.localhost/",
                "https://servidor/",
                "https://crm.internal/",
                "https://crm.local./",
                "https://metadata.google.internal/",
                "https://127.0.0.1/",
                "https://10.0.0.1/",
                "https://169.254.169.254/latest/meta-data/",
                "https://2130706433/",
                "https://0x7f000001/",
                "https://0x7f.1/",
                "https://0x7f.0x0.0x0.0x1/",
                "https://0177.0.0.1/",
                "https://127.1/",
                "https://127.0.1/",
                "https://0/",
                "https://017700000001/",
                "https://127.0.0.1./",
                "https://1.1.1.256/",
                "https://a..exemplo.com.br/",
                "https://-a.exemplo.com.br/",
                "https://[::1]/",
                "https://[::ffff:127.0.0.1]/",
                "https://[::ffff:7f00:1]/",
                "https://[::127.0.0.1]/",
                "https://[64:ff9b::10.0.0.1]/",
                "https://[2002:7f00:1::]/",
            ]
        ],
    ],
)
def test_statement_10_what_is_no_public_https_url_is_refused_with_a_word(url, issue):
    assert url_issue(url, sandbox=False) == issue


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x", "http://localhost:8000/", "http://[::1]:9/", "https://127.1.2.3/"]
)
def test_the_sandbox_also_accepts_this_machine(url):
    assert url_issue(url, sandbox=True) is None


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://127.1/", "http://2130706433/", "http://exemplo.com.br/"])
def test_the_sandbox_accepts_nothing_else_over_plain_http(url):
    assert url_issue(url, sandbox=True) == "callback_https"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://LOJA.exemplo.com.br/segredo?token=x", "loja.exemplo.com.br"),
        ("https://loja.exemplo.com.br:443/", "loja.exemplo.com.br"),
        ("https://loja.exemplo.com.br:8443/", "loja.exemplo.com.br:8443"),
        ("http://[::1]:9/x", "[::1]:9"),
    ],
)
def test_a_host_is_told_without_the_path(url, host):
    assert host_of(url) == host
