" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective accept_sender_field add_header_action addr address address_literals
syntax keyword mailgateDirective after_body all allow allow_loopback allow_private announce_size ask
syntax keyword mailgateDirective attempt_starttls attempts attribute audience auth auth_insecure
syntax keyword mailgateDirective auth_mechanisms auth_required auth_required_message authserv_id backoff
syntax keyword mailgateDirective balance banner base_dn bind body_spool_limit bounce ca cache cache_size
syntax keyword mailgateDirective canonicalization case_insensitive cert certificate check check_header
syntax keyword mailgateDirective chunking ciphers client client_auth client_ca command_timeout compare
syntax keyword mailgateDirective concurrency connect connect_timeout connections contact content_timeout
syntax keyword mailgateDirective control copy_to create curves dane data data_block data_timeout database
syntax keyword mailgateDirective debug default_destination default_source defer_sender_reject delimiter
syntax keyword mailgateDirective deliver_by deliver_to destaddr destination destination_in destport
syntax keyword mailgateDirective disable_commands discard dn_template dnssec domains early early_talker ehlo
syntax keyword mailgateDirective endpoint entry expand_placeholders expect expire failover failures
syntax keyword mailgateDirective fallback_delay file filter final_dot find from full_match future_release
syntax keyword mailgateDirective given greeting greeting_delay greylist_action handshake_timeout header health
syntax keyword mailgateDirective helo helo_response hide hide_client hold_timeout hostname ident identity
syntax keyword mailgateDirective idle_timeout import insecure_auth ip ip_strategy keep key lease lease_timeout
syntax keyword mailgateDirective level limits list listener local_domains local_policy log log_name login mail
syntax keyword mailgateDirective mail_from match max_age max_auth_failures max_command_length max_connections
syntax keyword mailgateDirective max_connections_per_endpoint max_connections_per_ip max_errors
syntax keyword mailgateDirective max_header_count max_header_size max_idle max_lag max_line_length
syntax keyword mailgateDirective max_message_size max_messages max_received max_recipients
syntax keyword mailgateDirective max_rejected_recipients max_replacement max_rows max_sets max_signatures
syntax keyword mailgateDirective max_size max_unauthenticated_commands member min_mx_level min_tls_level
syntax keyword mailgateDirective modify mt_priority mta_sts mtasts mtasts_root_ca multihomed_limit mx_auth
syntax keyword mailgateDirective mx_limit name negative negative_cache network nonlocal_source notify nul
syntax keyword mailgateDirective on_error on_fail on_missing on_neutral on_none on_permerror on_quarantine
syntax keyword mailgateDirective on_reject on_softfail on_split optional_step organization oversign_headers
syntax keyword mailgateDirective pass_all password port positive prepare_email private_key probe proto
syntax keyword mailgateDirective protocol protocols proxy_protocol quarantine_threshold query quiet_hosts quit
syntax keyword mailgateDirective rcpt rcpt_to read_timeout refuse_clients reject reject_action
syntax keyword mailgateDirective reject_threshold relay_from reload_interval reports require_tls required
syntax keyword mailgateDirective required_fields required_for reroute reserved_connections resolver responses
syntax keyword mailgateDirective retry reuse reverse_lookup reverse_lookup_timeout rewrite
syntax keyword mailgateDirective rewrite_subject_action root_ca route rset runtime_dir schemes scope score
syntax keyword mailgateDirective score_factor secret sender server servers service session_timeout settings_id
syntax keyword mailgateDirective shutdown_timeout sign_headers size slow_start smtp_max_line_length sni
syntax keyword mailgateDirective sni_lookup socket_group socket_mode socket_owner soft_reject_action source
syntax keyword mailgateDirective source_in source_ip source_ip_fallback source_selection starttls state_dir
syntax keyword mailgateDirective step store strict_addresses strict_line_endings subdomains subject
syntax keyword mailgateDirective submission_timeout tag tag_threshold target targets tarpit tempfail text
syntax keyword mailgateDirective timeout timeouts tls tls_capture_peer_cert tls_ciphers tls_client
syntax keyword mailgateDirective tls_client_cert tls_default_ca tls_protocols tls_report tls_sni tls_start
syntax keyword mailgateDirective tls_verify_host tls_verify_name token total trust trusted type urls user
syntax keyword mailgateDirective user_attribute user_claim user_to_email users verify verify_failure weight
syntax keyword mailgateDirective xclient xclient_required xforward
syntax keyword mailgateModule add_header admin arc auth.dovecot auth.external auth.file auth.ldap auth.oauth2
syntax keyword mailgateModule auth.smtp auth.sql auth.static authorize_sender chain check.arc
syntax keyword mailgateModule check.authorize_sender check.dkim check.dmarc check.dnsbl check.matching_helo
syntax keyword mailgateModule check.milter check.require_auth check.require_mx check.require_reverse_dns
syntax keyword mailgateModule check.require_tls check.rspamd check.score check.spf check.verify_recipient
syntax keyword mailgateModule checks dkim dmarc dns dnsbl dovecot email_localpart email_with_domain external
syntax keyword mailgateModule http ldap lmtp maildir matching_helo milter modifiers modify.add_header
syntax keyword mailgateModule modify.arc modify.dkim modify.remove_header modify.replace_header
syntax keyword mailgateModule modify.replace_rcpt modify.replace_sender modify.srs modify.subject_tag
syntax keyword mailgateModule msgpipeline oauth2 pki queue redis regexp remote remove_header replace_header
syntax keyword mailgateModule replace_rcpt replace_sender require_auth require_mx require_reverse_dns rspamd
syntax keyword mailgateModule smtp source_address spf sql srs static subject_tag submission table.chain
syntax keyword mailgateModule table.dns table.email_localpart table.email_with_domain table.file table.http
syntax keyword mailgateModule table.identity table.ldap table.redis table.regexp table.sql table.static
syntax keyword mailgateModule target.lmtp target.maildir target.queue target.remote target.smtp test
syntax keyword mailgateModule verify_recipient
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5 DELIVERBY DSN
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL FUTURERELEASE HELP LIMITS LOGIN MT-PRIORITY
syntax keyword mailgateValue OAUTHBEARER PIPELINING PLAIN REQUIRETLS SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE
syntax keyword mailgateValue SMTPUTF8 STARTTLS VRFY XOAUTH2 a accept argon2 authenticated auto base bcrypt
syntax keyword mailgateValue both clear client_ip cram-md5 dane_fallback_require_verify dane_require defer
syntax keyword mailgateValue delayed disabled encrypted error failed false field fingerprint forward
syntax keyword mailgateValue happy_eyeballs ignore info ipv4_only ipv4_then_ipv6 ipv6_only ipv6_then_ipv4 json
syntax keyword mailgateValue least_busy next no none normalize oauthbearer off on one operate optional
syntax keyword mailgateValue optional_verify ordered plain postgres quarantine random recipient
syntax keyword mailgateValue relaxed/relaxed relaxed/simple require require_verify round_robin scram-sha-256
syntax keyword mailgateValue self_signed sender_domain set sha256-crypt sha512-crypt simple/relaxed
syntax keyword mailgateValue simple/simple sqlite stderr stdout string strip sub success syslog true txt v1 v2
syntax keyword mailgateValue view warn xoauth2 yes yescrypt
syntax keyword mailgateOperator and else if in matches not or then when
syntax match mailgateFunction "\<\%(contains\|domain\|has_prefix\|has_suffix\|hash\|is_local\|len\|localpart\|lookup\|lower\|split\|upper\)\ze("

syntax match mailgateNumber "\<\d\+\%(\.\d\+\)\=\%(ms\|us\|[wdhmsGMKBgkb]\)\=\>"
syntax match mailgateAddress "\<\%(tcp\|tls\|unix\|mx\|fd\)://\S*"
syntax match mailgateReference "\%(^\|\s\)\zs&[A-Za-z_][A-Za-z0-9_.-]*"
syntax match mailgateMacro "\$([A-Za-z_][A-Za-z0-9_.-]*)" containedin=mailgateAddress
syntax match mailgateSnippet "^\s*([A-Za-z_][A-Za-z0-9_.-]*)"
syntax match mailgateEnvironment "{env:[^}]*}" containedin=mailgateString,mailgateAddress
syntax match mailgateJoin "\s\zs\\$"
syntax region mailgateString start=+\%(^\|[[:space:](\[,]\)\zs"+ skip=+\\"+ end=+"+
syntax match mailgateComment "\%(^\|\s\)\zs#.*$" contains=@Spell

highlight default link mailgateDirective Keyword
highlight default link mailgateModule Type
highlight default link mailgateValue Constant
highlight default link mailgateOperator Operator
highlight default link mailgateFunction Function
highlight default link mailgateNumber Number
highlight default link mailgateAddress Identifier
highlight default link mailgateReference Identifier
highlight default link mailgateMacro PreProc
highlight default link mailgateSnippet PreProc
highlight default link mailgateEnvironment PreProc
highlight default link mailgateJoin Special
highlight default link mailgateString String
highlight default link mailgateComment Comment

let b:current_syntax = "mailgate"
