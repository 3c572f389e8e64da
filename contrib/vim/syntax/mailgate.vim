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
syntax keyword mailgateDirective deliver_to destaddr destination destination_in destport disable_commands
syntax keyword mailgateDirective discard dn_template dnssec domains early early_talker ehlo endpoint entry
syntax keyword mailgateDirective expand_placeholders expect expire failover failures fallback_delay file
syntax keyword mailgateDirective filter final_dot find from full_match given greeting greeting_delay
syntax keyword mailgateDirective greylist_action handshake_timeout header health helo helo_response hide
syntax keyword mailgateDirective hide_client hold_timeout hostname ident identity idle_timeout import
syntax keyword mailgateDirective insecure_auth ip ip_strategy keep key lease lease_timeout level limits list
syntax keyword mailgateDirective listener local_domains local_policy log log_name login mail mail_from match
syntax keyword mailgateDirective max_age max_auth_failures max_command_length max_connections
syntax keyword mailgateDirective max_connections_per_endpoint max_connections_per_ip max_errors
syntax keyword mailgateDirective max_header_count max_header_size max_idle max_lag max_line_length
syntax keyword mailgateDirective max_message_size max_messages max_received max_recipients
syntax keyword mailgateDirective max_rejected_recipients max_replacement max_rows max_sets max_signatures
syntax keyword mailgateDirective max_size max_unauthenticated_commands member min_mx_level min_tls_level
syntax keyword mailgateDirective modify mta_sts mtasts mtasts_root_ca multihomed_limit mx_auth mx_limit name
syntax keyword mailgateDirective negative negative_cache network nonlocal_source notify nul on_error on_fail
syntax keyword mailgateDirective on_missing on_neutral on_none on_permerror on_quarantine on_reject
syntax keyword mailgateDirective on_softfail on_split optional_step organization oversign_headers pass_all
syntax keyword mailgateDirective password port positive prepare_email private_key probe proto protocol
syntax keyword mailgateDirective protocols proxy_protocol quarantine_threshold query quiet_hosts quit rcpt
syntax keyword mailgateDirective rcpt_to read_timeout refuse_clients reject reject_action reject_threshold
syntax keyword mailgateDirective relay_from reload_interval reports require_tls required required_fields
syntax keyword mailgateDirective required_for reroute reserved_connections resolver responses retry reuse
syntax keyword mailgateDirective reverse_lookup reverse_lookup_timeout rewrite rewrite_subject_action root_ca
syntax keyword mailgateDirective route rset runtime_dir schemes scope score score_factor secret sender server
syntax keyword mailgateDirective servers service session_timeout settings_id shutdown_timeout sign_headers
syntax keyword mailgateDirective size slow_start smtp_max_line_length sni sni_lookup socket_group socket_mode
syntax keyword mailgateDirective socket_owner soft_reject_action source source_in source_ip source_ip_fallback
syntax keyword mailgateDirective source_selection starttls state_dir step store strict_addresses
syntax keyword mailgateDirective strict_line_endings subdomains subject submission_timeout tag tag_threshold
syntax keyword mailgateDirective target targets tarpit tempfail text timeout timeouts tls
syntax keyword mailgateDirective tls_capture_peer_cert tls_ciphers tls_client tls_client_cert tls_default_ca
syntax keyword mailgateDirective tls_protocols tls_report tls_sni tls_start tls_verify_host tls_verify_name
syntax keyword mailgateDirective token total trust trusted type urls user user_attribute user_claim
syntax keyword mailgateDirective user_to_email users verify verify_failure weight xclient xclient_required
syntax keyword mailgateDirective xforward
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
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5 DSN
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL HELP LIMITS LOGIN OAUTHBEARER PIPELINING PLAIN
syntax keyword mailgateValue REQUIRETLS SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE SMTPUTF8 STARTTLS VRFY XOAUTH2 a
syntax keyword mailgateValue accept argon2 authenticated auto base bcrypt both clear client_ip cram-md5
syntax keyword mailgateValue dane_fallback_require_verify dane_require defer delayed disabled encrypted error
syntax keyword mailgateValue failed false field fingerprint forward happy_eyeballs ignore info ipv4_only
syntax keyword mailgateValue ipv4_then_ipv6 ipv6_only ipv6_then_ipv4 json least_busy next no none normalize
syntax keyword mailgateValue oauthbearer off on one operate optional optional_verify ordered plain postgres
syntax keyword mailgateValue quarantine random recipient relaxed/relaxed relaxed/simple require require_verify
syntax keyword mailgateValue round_robin scram-sha-256 self_signed sender_domain set sha256-crypt sha512-crypt
syntax keyword mailgateValue simple/relaxed simple/simple sqlite stderr stdout string strip sub success syslog
syntax keyword mailgateValue true txt v1 v2 view warn xoauth2 yes yescrypt
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
